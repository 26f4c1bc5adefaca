"""What becomes of work that failed: it runs again, alone, in pieces, or is given up.

The scheduler reports each failure here and does what the answer says. Nothing here starts work.
"""

import errno
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bertbatch.errors import DeviceLost, OutOfMemory, RunError, SourceError
from bertbatch.runtime.executors.executor import NodeGone, WorkerDied
from bertbatch.runtime.work import Rows, Work, where
from bertbatch.units import Unit

log = logging.getLogger("bertbatch")

FAILURES_IN_A_ROW = 40  # without a success between: a unit is given up, after two the run
NODES_FORGIVEN = 3  # nodes that may go under a unit before it is a suspect
ELSEWHERE_SECONDS = 60  # that a suspect waits for another worker than the one where it failed
REREADS = 5  # of a unit whose data were lost with a node or whose reader died
UNCOMMITTED_IN_A_ROW = 4  # units, after which the run ends: the storage does not take them
COMMIT_TRIES = 3


@dataclass
class Outcome:
    """What the loop could not do."""

    failed_sources: dict[str, str] = field(default_factory=dict)  # id → reason
    failed_units: dict[str, str] = field(default_factory=dict)  # id → reason
    stopped: bool = False
    worker_deaths: int = 0


class Failures:
    """One run's failures. A suspect is a unit with a range of rows that failed: it runs alone.

    `forget` is called with each unit that is given up.
    """

    def __init__(self, forget: Callable[[Unit], None]) -> None:
        self.outcome = Outcome()
        self._forget = forget
        self._suspects: deque[Work] = deque()
        self._of_worker: Counter[int] = Counter()  # failures in a row
        self._in_a_row = 0
        self._given_up = 0  # units, in a row
        self._rereads: Counter[str] = Counter()  # by unit id
        self._uncommitted = 0  # units in a row

    @property
    def suspects(self) -> int:
        return len(self._suspects)

    @property
    def storage_is_full(self) -> bool:
        return self._uncommitted >= UNCOMMITTED_IN_A_ROW

    def next_suspect(self, worker: int, others: bool) -> Work | None:
        """A suspect that may run on this worker; `others`: whether another one has a model.

        Where it failed, the GPU itself may be at fault.
        """
        for work in self._suspects:
            late = time.monotonic() - work.failed_at > ELSEWHERE_SECONDS
            if work.failed_on != worker or not others or late:
                self._suspects.remove(work)
                return work
        return None

    def more_to_score(self, work: Work) -> bool:
        """Whether ranges of a unit are left; it waits among the suspects then."""
        if work.todo:
            self._suspects.append(work)
        return bool(work.todo)

    def scored(self, worker: int) -> None:
        self._of_worker[worker] = self._in_a_row = self._given_up = 0

    def is_sick(self, worker: int, error: Exception) -> bool:
        """Whether a worker failed so often that rows are to be judged by a fresh one."""
        self._of_worker[worker] += not isinstance(error, OutOfMemory)
        return self._of_worker[worker] >= 2

    def replaced(self, worker: int) -> None:
        self._of_worker[worker] = 0

    def died(
        self, worker: int, begun: Sequence[tuple[Work, Rows]], death: WorkerDied | DeviceLost
    ) -> list[Work]:
        """A worker died with what it had begun: any of it may be to blame, so each runs alone.

        Returns the units to go on with: those that are not to blame, and those of which nothing
        is left to score.
        """
        self.outcome.worker_deaths += 1
        what = f"lost its GPU ({death})" if isinstance(death, DeviceLost) else "died"
        happened = "was lost with its node" if isinstance(death, NodeGone) else what
        log.warning("a model worker %s; a new one replaces it", happened)
        blamed, go_on = [], []
        for work, rows in begun:
            # A row that takes all of a container's memory takes the node with it.
            work.nodes_gone += isinstance(death, NodeGone)
            if not isinstance(death, NodeGone) or work.nodes_gone > NODES_FORGIVEN:
                blamed.append((work, rows))
            elif work.suspect:
                work.todo.appendleft(rows)
                self._suspects.appendleft(work)
            else:
                work.todo.appendleft(rows)
                go_on.append(work)
        if blamed:
            go_on += self._blame(worker, blamed, f"its model worker {what} each time")
        return go_on

    def raised(self, worker: int, work: Work, rows: Rows, error: Exception) -> list[Work]:
        """Scoring raised; as `died`."""
        return self._blame(worker, [(work, rows)], f"scoring failed each time: {describe(error)}")

    def _blame(self, worker: int, blamed: Sequence[tuple[Work, Rows]], reason: str) -> list[Work]:
        self._in_a_row += 1
        if self._in_a_row >= FAILURES_IN_A_ROW:
            self._in_a_row, self._given_up = 0, self._given_up + 1
            if self._given_up > 1:
                raise RunError(
                    f"scoring failed {2 * FAILURES_IN_A_ROW} times in a row ({reason}): it is not "
                    "the rows; is there enough memory for the model on each worker?"
                )
            for work, _ in blamed:
                self.unit(work.unit, f"{FAILURES_IN_A_ROW} failures in a row: {reason}")
            return []
        for work, rows in blamed:
            work.blame(worker, rows, reason)
        return [work for work, _ in blamed if not self.more_to_score(work)]

    def to_read_again(self, units: Sequence[Unit], reason: str) -> list[Unit]:
        """Those of the units, of which nothing is left, that are worth another try."""
        again = []
        for unit in units:
            self._rereads[unit.id] += 1
            if self._rereads[unit.id] > REREADS:
                self.unit(unit, f"{REREADS + 1} times: {reason}")
            else:
                again.append(unit)
        return again

    def committed(self) -> None:
        self._uncommitted = 0

    def may_commit_again(self, unit: Unit, tries: int, error: Exception) -> bool:
        """Whether a failed commit is worth another try; if not, the unit fails.

        Committing is safe to repeat: the part's create decides. What the storage refused was
        tried often enough by the commit itself.
        """
        if tries < COMMIT_TRIES and not isinstance(error, OSError):
            return True
        self.unit(unit, f"committing failed: {describe(error)}")
        # A name that is too long, or values that no file can hold, are the unit's own.
        if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
            self._uncommitted += 1
            if self._uncommitted == UNCOMMITTED_IN_A_ROW:
                log.warning(
                    "%d units in a row could not be committed: the run stops", self._uncommitted
                )
        return False

    def source(self, error: SourceError, units: Sequence[Unit]) -> None:
        """A source cannot be read: its units fail."""
        if error.source not in self.outcome.failed_sources:
            log.warning("source failed: %s", error, extra={"source": error.source})
        self.outcome.failed_sources[error.source] = error.reason
        for unit in units:
            self._give_up(unit, str(error))

    def unit(self, unit: Unit, reason: str) -> None:
        log.warning("unit failed: %s (%s)", unit.part, reason, extra=where(unit))
        self._give_up(unit, reason)

    def _give_up(self, unit: Unit, reason: str) -> None:
        self.outcome.failed_units[unit.id] = reason
        self._forget(unit)


def describe(error: BaseException) -> str:
    """An error's type and the first line of what it says."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
