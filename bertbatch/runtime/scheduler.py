"""The scheduler: one bounded loop takes units from readers to model workers to commits.

It knows handles, not data: where work runs is decided in `executors/`, which has one for Ray and
one for a single process. What becomes of work that failed is decided in `failures.py`.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from bertbatch.errors import DataLost, DeviceLost, JobError, RunError, SourceError
from bertbatch.runtime.counts import Record
from bertbatch.runtime.executors.executor import Executor, WorkerDied
from bertbatch.runtime.failures import Failures, Outcome, describe
from bertbatch.runtime.work import ReadTask, Rows, Work
from bertbatch.units import Unit

GRACE_SECONDS = 10  # for running commits after Ctrl-C
END_SECONDS = GRACE_SECONDS + 5  # that the end of a run takes, with its record


@dataclass
class _Worker:
    """A model worker as the loop knows it: what it has been given, in order."""

    number: int
    queue: deque[tuple[Hashable, Work, Rows]] = field(default_factory=deque)

    @property
    def alone(self) -> bool:
        """Whether it has a suspect, beside which nothing else may run."""
        return any(work.suspect for _, work, _ in self.queue)


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
        self._failures = Failures(self._forget)
        self._workers: list[_Worker] = []
        self._loading: dict[int, _Worker] = {}  # without a model yet
        # Those that may be given something: that have nothing, and that have one range.
        self._free: tuple[dict[int, _Worker], dict[int, _Worker]] = ({}, {})
        self._been_ready: set[int] = set()
        self._ready: deque[Work] = deque()  # read, to be scored
        self._under_way: dict[Hashable, Callable[[], None]] = {}  # what follows on each handle
        self._read_tasks = self._being_read = 0  # tasks, and their units, under way
        self._commits: set[Hashable] = set()  # under way
        self._bytes = 0  # of units read or being read, but not yet committed
        self._any_read = False  # whether a read task has ended
        self._tasks: Iterator[ReadTask] = iter(())
        self._left: deque[Unit] = deque()  # of a read task that was divided
        self._more = True  # whether there may be tasks not yet read

    def run(self, tasks: Iterator[ReadTask]) -> Outcome:
        """Runs every task to its commit, or its failure.

        Raises RunError or JobError if the workers, not the rows, are at fault.
        """
        self._tasks, self._more = tasks, True
        while not (self._should_stop() or self._failures.storage_is_full):
            self._on.adapt()
            self._welcome_workers()
            self._read()
            self._score()
            if self._under_way:
                for handle in self._on.wait(timeout=0.5):
                    self._advance(handle)
                    self._score()
            elif self._is_done():
                return self._failures.outcome
            else:
                time.sleep(0.05)  # no worker has its model yet
        self._wind_down()
        return self._failures.outcome

    @property
    def bottleneck(self) -> str:
        """What the run waits for: "scoring", if no worker waits for anything."""
        idle, _ = self._free
        if self._workers and len(self._loading) == len(self._workers):
            return "waiting for workers"
        if len(self._commits) >= self._most_commits:
            return "committing"
        return "reading" if idle and self._being_read and not self._ready else "scoring"

    @property
    def _most_commits(self) -> int:
        """Under way: then nothing more is read."""
        return 4 * len(self._workers) + 16

    def _is_done(self) -> bool:
        return not (self._more or self._ready or self._failures.suspects)

    def _welcome_workers(self) -> None:
        """Takes up workers that have joined, and those that have their model by now."""
        while len(self._workers) < self._on.workers:
            worker = _Worker(len(self._workers))
            self._workers.append(worker)
            self._loading[worker.number] = worker
        for number in [number for number in self._loading if self._on.ready(number)]:
            self._been_ready.add(number)
            self._free[0][number] = self._loading.pop(number)

    def _read(self) -> None:
        """Begins to read as long as there are readers, memory, and workers to read for.

        The first read task is alone where the readers have no cores of their own: a second one
        beside it would only make another process import and load its tokenizer, on cores that
        still load the model.
        """
        workers, readers = len(self._workers), self._on.readers
        most = readers.most if self._any_read else max(readers.cores, 1)
        enough = workers + readers.most  # units that are ready, for some time
        while (
            self._read_tasks < most
            and (len(self._ready) < workers or self._ahead < 2 * enough)
            and len(self._commits) < self._most_commits
            and self._bytes < readers.memory
            and (units := self._next_task(len(self._ready) < enough, most - self._read_tasks))
        ):
            self._bytes += sum(unit.bytes for unit in units)
            self._begin_read(units)

    @property
    def _ahead(self) -> int:
        """Units that are being read, or wait for a worker."""
        return self._being_read + len(self._ready) + self._failures.suspects

    def _next_task(self, starving: bool, free: int) -> Sequence[Unit]:
        """What to read next: while workers starve, a task is shared among the free readers.

        The very first unit is alone, so that scoring begins soon.
        """
        if not self._left:
            task = next(self._tasks, None)
            self._more = task is not None
            if task is None or not task.divisible:
                return task.units if task else ()
            self._left.extend(task.units)
        count = len(self._left)
        if starving:
            count = max(count // free, 1) if self._any_read else 1
        return [self._left.popleft() for _ in range(count)]

    def _begin_read(self, units: Sequence[Unit]) -> None:
        handle = self._on.read(units)
        self._under_way[handle] = partial(self._after_read, handle, units)
        self._read_tasks += 1
        self._being_read += len(units)

    def _score(self) -> None:
        """Gives work to workers: one range running, one behind it; suspects run alone.

        The last units wait for whichever worker is free first, or one worker would end with
        two of them while others have none.
        """
        idle, busy = self._free
        if self._failures.suspects:
            for number, worker in list(idle.items()):
                if work := self._failures.next_suspect(number, len(self._been_ready) > 1):
                    self._begin_score(worker, work)
        while idle and self._ready:
            self._begin_score(next(iter(idle.values())), self._ready.popleft())
        if self._failures.suspects:
            return  # a worker that gets through what it has takes one
        last = not (self._more or self._read_tasks)
        if last and len(self._ready) < len(self._workers):
            return
        while busy and self._ready:
            self._begin_score(next(iter(busy.values())), self._ready.popleft())

    def _begin_score(self, worker: _Worker, work: Work) -> None:
        rows = work.todo.popleft()
        handle = self._on.score(worker.number, work.tokens, *rows)
        self._under_way[handle] = partial(self._after_score, worker, handle)
        worker.queue.append((handle, work, rows))
        self._list(worker)

    def _list(self, worker: _Worker) -> None:
        """Lists a worker by how much it may be given."""
        for listed in self._free:
            listed.pop(worker.number, None)
        has = len(worker.queue)
        if worker.number not in self._loading and has < 2 and not worker.alone:
            self._free[has][worker.number] = worker

    def _advance(self, handle: Hashable) -> None:
        """Does what follows, unless it is of a worker that was replaced."""
        if follow := self._under_way.pop(handle, None):
            follow()

    def _after_read(self, handle: Hashable, units: Sequence[Unit]) -> None:
        self._read_tasks -= 1
        self._being_read -= len(units)
        self._any_read = True
        try:
            prepared = self._on.result(handle)
        except SourceError as error:
            self._failures.source(error, units)
        except JobError:
            raise  # the tokenizer cannot be loaded there: no unit is to blame
        except (WorkerDied, DataLost) as error:
            self._read_again(units, f"reading failed: {describe(error)}")
        except Exception as error:
            for unit in units:
                self._failures.unit(unit, f"reading failed: {describe(error)}")
        else:
            for unit, (tokens, passthrough, rows) in zip(units, prepared, strict=True):
                work = Work(unit, tokens, passthrough, deque([(0, rows)] if rows else []))
                if rows:
                    self._ready.append(work)
                else:
                    self._commit(work)

    def _read_again(self, units: Sequence[Unit], reason: str) -> None:
        """Begins units anew of which nothing is left."""
        if again := self._failures.to_read_again(units, reason):
            self._begin_read(again)

    def _after_score(self, worker: _Worker, handle: Hashable) -> None:
        entry = next(entry for entry in worker.queue if entry[0] == handle)
        _, work, rows = entry
        try:
            result = self._on.result(handle)
        except (WorkerDied, DeviceLost) as death:
            self._after_death(worker, handle, death)
            return
        except (JobError, RunError):
            raise  # no worker can go on, or none can load the model: no row is to blame
        except Exception as error:
            worker.queue.remove(entry)
            self._after_failed_score(worker, work, rows, error)
        else:
            worker.queue.remove(entry)
            self._failures.scored(worker.number)
            work.pieces[rows[0]] = result
            if not self._failures.more_to_score(work):
                self._commit(work)
        self._list(worker)

    def _after_failed_score(
        self, worker: _Worker, work: Work, rows: Rows, error: Exception
    ) -> None:
        if isinstance(error, DataLost):
            self._read_again([work.unit], describe(error))
        elif isinstance(error, SourceError):  # its tokens were lost, and cannot be read again
            self._failures.source(error, [work.unit])
        else:
            if self._failures.is_sick(worker.number, error) and not worker.queue:
                self._replace(worker)
            self._go_on(self._failures.raised(worker.number, work, rows, error))

    def _after_death(
        self, worker: _Worker, handle: Hashable, death: WorkerDied | DeviceLost
    ) -> None:
        """Puts a fresh worker in a dead one's place.

        What it had begun may be to blame, both ranges, for a worker begins the second one before
        it has the first one's last answer; but what it has answered is not. Workers answer in
        order.
        """
        first, _, _ = worker.queue[0]
        if first != handle:
            self._under_way.pop(first)
            self._after_score(worker, first)
            if not any(entry[0] == handle for entry in worker.queue):
                return  # the first one had died, too
        begun = [(work, rows) for _, work, rows in worker.queue]
        for other, _, _ in worker.queue:
            self._under_way.pop(other, None)
        worker.queue.clear()
        self._replace(worker)
        self._go_on(self._failures.died(worker.number, begun, death))

    def _replace(self, worker: _Worker) -> None:
        self._failures.replaced(worker.number)
        self._on.replace(worker.number)
        self._loading[worker.number] = worker
        self._list(worker)

    def _go_on(self, units: Sequence[Work]) -> None:
        """After a failure: what is not to blame is scored before others, the rest committed."""
        for work in reversed(units):
            if work.todo:
                self._ready.appendleft(work)
            else:
                self._commit(work)

    def _commit(self, work: Work, tries: int = 1) -> None:
        pieces = [work.pieces[first] for first in sorted(work.pieces)]
        handle = self._on.commit(work.unit, work.passthrough, work.poison, pieces)
        self._under_way[handle] = partial(self._after_commit, handle, work, tries)
        self._commits.add(handle)

    def _after_commit(self, handle: Hashable, work: Work, tries: int) -> None:
        self._commits.remove(handle)
        try:
            record = self._on.result(handle)
        except DataLost as error:
            self._read_again([work.unit], describe(error))
        except SourceError as error:  # what it carries was lost, and cannot be read again
            self._failures.source(error, [work.unit])
        except Exception as error:
            if self._failures.may_commit_again(work.unit, tries, error):
                self._commit(work, tries + 1)
        else:
            self._forget(work.unit)
            self._failures.committed()
            self._observe(record)

    def _forget(self, unit: Unit) -> None:
        """A unit is committed, or has failed."""
        self._bytes -= unit.bytes

    def _wind_down(self) -> None:
        """Gives running commits some seconds; everything else is left for the next run."""
        self._failures.outcome.stopped = True
        deadline = time.monotonic() + GRACE_SECONDS
        while self._commits and time.monotonic() < deadline:
            for handle in self._on.wait(timeout=0.2):
                if handle in self._commits:
                    self._advance(handle)
