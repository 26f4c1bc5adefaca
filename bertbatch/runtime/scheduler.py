"""The scheduler: one bounded loop takes units from readers to model workers to commits.

This loop is the whole schedule. It alone decides what happens when something fails. It knows
handles, not data: where work runs is decided in `executors/`, which has one for Ray and one for
a single process.
"""

import errno
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from bertbatch.errors import DeviceLost, JobError, OutOfMemory, RunError, SourceError
from bertbatch.runtime.counts import Record
from bertbatch.runtime.executors.executor import DataLost, Executor, NodeGone, WorkerDied
from bertbatch.runtime.work import Work, where
from bertbatch.units import Unit

log = logging.getLogger("bertbatch")

# Read but not yet committed, beyond which nothing more is read: in all, or for each worker,
# whichever is more. Nodes bring object stores along with their workers.
AHEAD_BYTES = 512 << 20
AHEAD_BYTES_EACH = 64 << 20
FAILURES_IN_A_ROW = 40  # without a success between: a unit is given up, after two the run
NODES_FORGIVEN = 3  # nodes that may go under a unit before it is a suspect
ELSEWHERE_SECONDS = 60  # that a suspect waits for another worker than the one where it failed
REREADS = 5  # of a unit whose data were lost with a node or whose reader died
UNCOMMITTED_IN_A_ROW = 4  # units, after which the run ends: the storage does not take them
GRACE_SECONDS = 10  # for running commits after Ctrl-C


@dataclass
class Outcome:
    """What the loop did."""

    failed_sources: dict[str, str] = field(default_factory=dict)  # id → reason
    failed_units: dict[str, str] = field(default_factory=dict)  # id → reason
    stopped: bool = False
    worker_deaths: int = 0


class Scheduler:
    """One run's loop over an executor.

    `observe` is called with each unit's record, `should_stop` before anything more is begun.
    """

    def __init__(
        self,
        executor: Executor,
        observe: Callable[[Record], None],
        should_stop: Callable[[], bool],
    ):
        self._on, self._observe, self._should_stop = executor, observe, should_stop
        self.outcome = Outcome()
        self._reading: dict[Hashable, Sequence[Unit]] = {}
        self._ready: deque[Work] = deque()
        self._suspects: deque[Work] = deque()
        self._queues: list[deque[tuple[Hashable, Work, tuple[int, int]]]] = [
            deque() for _ in range(executor.workers)
        ]
        self._committing: dict[Hashable, tuple[Work, int]] = {}
        self._been_ready: set[int] = set()  # workers
        self._failures = [0] * executor.workers  # in a row, of each worker
        self._failures_in_a_row = 0
        self._given_up = 0  # units, in a row
        self._rereads: Counter[str] = Counter()  # by unit id
        self._more = True  # whether there are tasks not yet read
        self._uncommitted = 0  # units that could not be committed, in a row
        self._any_read = False  # whether a read task has ended

    def run(self, tasks: Iterator[Sequence[Unit]]) -> Outcome:
        """Runs every task to its commit, or its failure.

        Raises RunError or JobError if the workers, not the rows, are at fault.
        """
        self._more = True
        while True:
            if self._should_stop() or self._uncommitted >= UNCOMMITTED_IN_A_ROW:
                self._wind_down()
                return self.outcome
            self._on.adapt()
            while len(self._queues) < self._on.workers:
                self._queues.append(deque())
                self._failures.append(0)
            while self._more and self._has_capacity():
                task = next(tasks, None)
                self._more = task is not None
                if task:
                    self._reading[self._on.read(task)] = task
            self._dispatch()
            handles = self._handles()
            if not handles:
                if not (self._more or self._ready or self._suspects):
                    return self.outcome
                time.sleep(0.05)  # no worker has its model yet
                continue
            for handle in self._on.wait(handles, timeout=0.5):
                self._advance(handle)

    def _handles(self) -> list[Hashable]:
        scoring = [handle for queue in self._queues for handle, _, _ in queue]
        return [*self._reading, *scoring, *self._committing]

    def _has_capacity(self) -> bool:
        """Whether to read on: two units ready for each worker, within a bound of bytes.

        The first read task is alone: a second one beside it would only make another process
        import and load its tokenizer, on cores that still load the model.
        """
        if self._reading and not self._any_read:
            return False
        ahead = [unit for task in self._reading.values() for unit in task]
        ahead += [work.unit for work in (*self._ready, *self._suspects)]
        behind = [work.unit for work, _ in self._committing.values()]
        few = len(ahead) < 2 * len(self._queues) + 1 and len(behind) < 4 * len(self._queues) + 16
        most = max(AHEAD_BYTES, AHEAD_BYTES_EACH * len(self._queues))
        return few and sum(unit.bytes for unit in (*ahead, *behind)) < most

    def _dispatch(self) -> None:
        """Gives work to workers: one range running, one behind it; suspects run alone.

        The last units wait for whichever worker is free first, or one worker would end with
        two of them while others have none.
        """
        if not (self._suspects or self._ready):
            return
        queues = [(w, queue) for w, queue in enumerate(self._queues) if self._on.ready(w)]
        self._been_ready.update(worker for worker, _ in queues)
        for worker, queue in queues:
            fit = (work for work in self._suspects if self._may_judge(worker, work))
            if not queue and (suspect := next(fit, None)):
                self._suspects.remove(suspect)
                self._score(worker, suspect)
        for depth in (0, 1):
            if depth and self._suspects:
                return  # a worker that gets through what it has takes one
            if depth and not (self._more or self._reading) and len(self._ready) < len(self._queues):
                return
            for worker, queue in queues:
                alone = any(work.suspect for _, work, _ in queue)
                if self._ready and len(queue) == depth and not alone:
                    self._score(worker, self._ready.popleft())

    def _may_judge(self, worker: int, suspect: Work) -> bool:
        """Whether a suspect may run there: where it failed the GPU itself may be at fault."""
        others = self._been_ready - {worker}
        late = time.monotonic() - suspect.failed_at > ELSEWHERE_SECONDS
        return suspect.failed_on != worker or not others or late

    def _score(self, worker: int, work: Work) -> None:
        first, stop = work.todo.popleft()
        handle = self._on.score(worker, work.tokens, first, stop)
        self._queues[worker].append((handle, work, (first, stop)))

    def _advance(self, handle: Hashable) -> None:
        if handle in self._reading:
            self._after_read(handle, self._reading.pop(handle))
        elif handle in self._committing:
            self._after_commit(handle, *self._committing.pop(handle))
        else:
            for worker, queue in enumerate(self._queues):
                if any(handle == running for running, _, _ in queue):
                    self._after_score(worker, handle)
                    return

    def _after_read(self, handle: Hashable, units: Sequence[Unit]) -> None:
        self._any_read = True
        try:
            prepared = self._on.result(handle)
        except SourceError as error:
            self._fail_source(error, units)
            return
        except JobError:
            raise  # the tokenizer cannot be loaded there: no unit is to blame
        except (WorkerDied, DataLost) as error:
            self._read_again(units, f"reading failed: {_reason(error)}")
            return
        except Exception as error:
            for unit in units:
                self._fail_unit(unit, f"reading failed: {_reason(error)}")
            return
        for unit, (tokens, passthrough, rows) in zip(units, prepared, strict=True):
            work = Work(unit, tokens, passthrough, deque([(0, rows)] if rows else []))
            if rows:
                self._ready.append(work)
            else:
                self._commit(work)

    def _read_again(self, units: Sequence[Unit], reason: str) -> None:
        """Begins units anew of which nothing is left."""
        again = []
        for unit in units:
            self._rereads[unit.id] += 1
            if self._rereads[unit.id] > REREADS:
                self._fail_unit(unit, f"{REREADS + 1} times: {reason}")
            else:
                again.append(unit)
        if again:
            self._reading[self._on.read(again)] = again

    def _after_score(self, worker: int, handle: Hashable) -> None:
        queue = self._queues[worker]
        try:
            result = self._on.result(handle)
        except (WorkerDied, DeviceLost) as death:
            self._after_death(worker, handle, death)
        except DataLost as error:
            _, work, _ = self._take(queue, handle)
            self._read_again([work.unit], _reason(error))
        except SourceError as error:  # its tokens were lost, and cannot be read again
            _, work, _ = self._take(queue, handle)
            self._fail_source(error, [work.unit])
        except (JobError, RunError):
            raise  # no worker can go on, or none can load the model: no row is to blame
        except Exception as error:
            _, work, rows = self._take(queue, handle)
            self._failures[worker] += not isinstance(error, OutOfMemory)
            if self._failures[worker] >= 2 and not queue:
                # It may be the worker that is sick, so rows are judged by a fresh one.
                self._failures[worker] = 0
                self._on.replace(worker)
            self._suspect(worker, work, rows, f"scoring failed each time: {_reason(error)}")
        else:
            _, work, rows = self._take(queue, handle)
            self._failures[worker] = self._failures_in_a_row = self._given_up = 0
            work.pieces[rows[0]] = result
            self._go_on(work)

    def _after_death(self, worker: int, handle: Hashable, death: WorkerDied | DeviceLost) -> None:
        """Puts a fresh worker in a dead one's place; what was running there is to blame.

        Workers answer in order, so the first in the queue was running, unless it has answered
        already; what waited behind it has done nothing.
        """
        queue = self._queues[worker]
        if queue[0][0] != handle:
            self._after_score(worker, queue[0][0])
            if not queue:
                return  # that was what was running
        _, work, rows = queue.popleft()
        while queue:
            _, waiting, its_rows = queue.pop()
            self._put_back(waiting, its_rows)
        self._on.replace(worker)
        self._failures[worker] = 0
        self.outcome.worker_deaths += 1
        if isinstance(death, NodeGone):
            work.nodes_gone += 1
            # A row that takes all of a container's memory takes the node with it.
            if work.nodes_gone <= NODES_FORGIVEN:
                log.warning("a model worker was lost with its node; a new one replaces it")
                self._put_back(work, rows)
                return
        what = f"lost its GPU ({death})" if isinstance(death, DeviceLost) else "died"
        log.warning("a model worker %s; a new one replaces it", what)
        self._suspect(worker, work, rows, f"its model worker {what} each time")

    def _put_back(self, work: Work, rows: tuple[int, int]) -> None:
        """Has rows that are not to blame scored again, before others."""
        work.todo.appendleft(rows)
        (self._suspects if work.suspect else self._ready).appendleft(work)

    @staticmethod
    def _take(
        queue: deque[tuple[Hashable, Work, tuple[int, int]]], handle: Hashable
    ) -> tuple[Hashable, Work, tuple[int, int]]:
        entry = next(entry for entry in queue if entry[0] == handle)
        queue.remove(entry)
        return entry

    def _suspect(self, worker: int, work: Work, rows: tuple[int, int], reason: str) -> None:
        """Runs a range that failed again, alone; then splits it, down to the poison rows."""
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= FAILURES_IN_A_ROW:
            self._failures_in_a_row, self._given_up = 0, self._given_up + 1
            if self._given_up > 1:
                raise RunError(
                    f"scoring failed {2 * FAILURES_IN_A_ROW} times in a row ({reason}): it is not "
                    "the rows; is there enough memory for the model on each worker?"
                )
            self._fail_unit(work.unit, f"{FAILURES_IN_A_ROW} failures in a row: {reason}")
            return
        work.blame(worker, rows, reason)
        self._go_on(work)

    def _go_on(self, work: Work) -> None:
        if work.todo:
            self._suspects.append(work)
        else:
            self._commit(work)

    def _commit(self, work: Work, tries: int = 1) -> None:
        pieces = [work.pieces[first] for first in sorted(work.pieces)]
        handle = self._on.commit(work.unit, work.passthrough, work.poison, pieces)
        self._committing[handle] = (work, tries)

    def _after_commit(self, handle: Hashable, work: Work, tries: int) -> None:
        try:
            record = self._on.result(handle)
        except DataLost as error:
            self._read_again([work.unit], _reason(error))
            return
        except SourceError as error:  # what it carries was lost, and cannot be read again
            self._fail_source(error, [work.unit])
            return
        except Exception as error:
            # Committing is safe to repeat: the part's create decides. What the storage refused
            # was tried often enough by the commit itself.
            if tries < 3 and not isinstance(error, OSError):
                self._commit(work, tries + 1)
                return
            self._fail_unit(work.unit, f"committing failed: {_reason(error)}")
            # A name that is too long, or values that no file can hold, are the unit's own.
            away = isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG
            self._uncommitted += away
            if away and self._uncommitted == UNCOMMITTED_IN_A_ROW:
                log.warning(
                    "%d units in a row could not be committed: the run stops", self._uncommitted
                )
            return
        self._uncommitted = 0
        self._observe(record)

    def _fail_source(self, error: SourceError, units: Sequence[Unit]) -> None:
        if error.source not in self.outcome.failed_sources:
            log.warning("source failed: %s", error, extra={"source": error.source})
        self.outcome.failed_sources[error.source] = error.reason
        for unit in units:
            self.outcome.failed_units[unit.id] = str(error)

    def _fail_unit(self, unit: Unit, reason: str) -> None:
        log.warning("unit failed: %s (%s)", unit.part, reason, extra=where(unit))
        self.outcome.failed_units[unit.id] = reason

    def _wind_down(self) -> None:
        """Gives running commits some seconds; everything else is left for the next run."""
        self.outcome.stopped = True
        deadline = time.monotonic() + GRACE_SECONDS
        while self._committing and time.monotonic() < deadline:
            for handle in self._on.wait(list(self._committing), timeout=0.2):
                self._after_commit(handle, *self._committing.pop(handle))


def _reason(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
