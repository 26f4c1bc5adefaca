"""An executor that is a simulation: seeded, one event at a time."""

import random
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from bertbatch.runtime.counts import Counts, Record
from bertbatch.runtime.executors.executor import Readers, WorkerDied
from bertbatch.runtime.work import ReadTask
from bertbatch.units import Cut, Source, Span, Unit


class Simulation:
    """Workers that answer in order, and die or raise by chance or on poison rows."""

    most_at_once = 3  # ends that `wait` tells together

    def __init__(self, seed: int, workers: int, faults: float, poison: set[tuple[str, int]]):
        self.workers = workers
        self.readers = Readers(1, 1 + workers, 1 << 20)
        self._open: dict[int, None] = {}  # handles that `wait` has not told
        self._rng = random.Random(seed)
        self._faults = faults
        self._poison = poison
        self._work: dict[int, Any] = {}
        self._queues: list[list[int]] = [[] for _ in range(workers)]
        self._done: dict[int, Any] = {}
        self._next = 0
        self.committed: dict[str, tuple[list[int], list[int]]] = {}
        self.deepest = 0

    def _begin(self, *what: Any) -> int:
        self._next += 1
        self._work[self._next] = what
        self._open[self._next] = None
        return self._next

    def adapt(self) -> None:
        pass

    def ready(self, worker: int) -> bool:
        return self._rng.random() < 0.9

    def read(self, units: Sequence[Unit]) -> Hashable:
        return self._begin("read", units)

    def score(self, worker: int, tokens: Any, first: int, stop: int) -> Hashable:
        handle = self._begin("score", worker, tokens, first, stop)
        self._queues[worker].append(handle)
        self.deepest = max(self.deepest, len(self._queues[worker]))
        return handle

    def commit(self, unit: Unit, passthrough: Any, poison: Any, pieces: Any) -> Hashable:
        return self._begin("commit", unit, poison, pieces)

    def replace(self, worker: int) -> None:
        for handle in self._queues[worker]:
            self._open.pop(handle, None)
        self._queues[worker] = []

    def wait(self, timeout: float) -> list[Hashable]:
        """Some that are done, in any order; a worker ends what it was given first, first."""
        told: list[Hashable] = []
        for _ in range(self._rng.randint(1, self.most_at_once)):
            able = [h for h in self._open if h in self._done or self._is_next(h)]
            if able:
                handle = self.choose(able)
                if handle not in self._done:
                    self._done[handle] = self._finish(handle)
                del self._open[handle]
                told.append(handle)
        self._rng.shuffle(told)
        return told

    def choose(self, able: Sequence[int]) -> int:
        return self._rng.choice(able)

    def _is_next(self, handle: int) -> bool:
        kind, *what = self._work[handle]
        return kind != "score" or self._queues[what[0]][:1] == [handle]

    def _finish(self, handle: int) -> Any:
        kind, *what = self._work[handle]
        if kind == "read":
            return [(unit, unit, unit.rows) for unit in what[0]]
        if kind == "commit":
            unit, poison, pieces = what
            rows = [row for piece in pieces for row in piece]
            assert unit.id not in self.committed
            self.committed[unit.id] = (rows, [row for row, _ in poison])
            return Record(unit.id, True, Counts(len(rows), len(poison)))
        worker, unit, first, stop = what
        bad = any((unit.id, row) in self._poison for row in range(first, stop))
        if bad or self._rng.random() < self._faults:
            if self._rng.random() < 0.5:
                for waiting in self._queues[worker]:
                    self._done[waiting] = WorkerDied("killed")
                return WorkerDied("killed")
            self._queues[worker].remove(handle)
            return ValueError("engine")
        self._queues[worker].remove(handle)
        return list(range(first, stop))

    def result(self, handle: Any) -> Any:
        value = self._done[handle]
        if isinstance(value, Exception):
            raise value
        return value


def make_units(count: int, rows: int) -> list[Unit]:
    source = Source("a", "a", 1, "1")
    return [Unit(f"u{i}", (Span(source, Cut(i * rows, rows, 0, 0, 100)),)) for i in range(count)]


def one_by_one(units: Sequence[Unit]) -> Iterator[ReadTask]:
    """A read task for each unit."""
    return iter([ReadTask([unit]) for unit in units])
