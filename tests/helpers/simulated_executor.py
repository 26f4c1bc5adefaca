"""An executor that is a simulation: seeded, one event at a time."""

import random
from collections.abc import Hashable, Sequence
from typing import Any

from bertbatch.runtime.counts import Counts, Record
from bertbatch.runtime.executors.executor import WorkerDied
from bertbatch.units import Cut, Source, Span, Unit


class Simulation:
    """Workers that answer in order, and die or raise by chance or on poison rows."""

    def __init__(self, seed: int, workers: int, faults: float, poison: set[tuple[str, int]]):
        self.workers = workers
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
        self._queues[worker] = []

    def wait(self, handles: Sequence[Any], timeout: float) -> list[Hashable]:
        able = [
            h
            for h in handles
            if h in self._done
            or self._work[h][0] != "score"
            or self._queues[self._work[h][1]][0] == h
        ]
        handle = self._rng.choice(able)
        if handle not in self._done:
            self._done[handle] = self._finish(handle)
        return [handle]

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
