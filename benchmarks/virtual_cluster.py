"""A cluster in virtual time: an executor whose stages take seconds that nobody waits for.

The scheduler over it is the program's own. Reads and commits share the cores that the devices
leave, each at most one core; a device scores in order. The driver is one process: what it does
takes time, too, and meanwhile the cluster goes on.
"""

import heapq
import math
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from bertbatch.runtime.counts import Counts, Record
from bertbatch.runtime.executors.executor import Readers
from bertbatch.units import Unit


@dataclass(frozen=True)
class Costs:
    """Seconds of the stages: of commits and the driver measured, the others assumed.

    The figures are in benchmarks/results/, with commits five times as long besides. Ray tells the
    driver what is done, so that its cost does not grow with what is under way.
    """

    start: float = 0.003  # Ray starts a task
    commit: float = 0.010  # of any unit, and
    commit_token: float = 25e-9  # of each of its tokens
    spread: float = 0.3  # reads and commits take this share less or more, at random
    gap: float = 0.0003  # on a device between two units, the second one waiting there,
    wake: float = 0.004  # or before a unit that comes to an idle device
    event: float = 0.0008  # of the driver, all of its threads: a result, and what follows
    look: float = 0.0001  # of the driver: looking what is done


@dataclass(frozen=True)
class Shape:
    """`device_rate` tokens/s of each device, `core_rate` tokens/s that a core reads."""

    devices: int
    cores: int
    device_rate: float
    core_rate: float
    unit_tokens: int


class VirtualCluster:
    def __init__(self, shape: Shape, costs: Costs):
        self._shape, self._costs = shape, costs
        self.workers = shape.devices
        self.kinds: dict[str, dict[str, Any]] = {}
        free = max(shape.cores - shape.devices, 1)
        self.readers = Readers(free, free, memory=1 << 60)
        self.now = self.driver = self.reading = 0.0
        self.first_batch = math.inf
        self.last_commit = 0.0
        self._numbers = count()
        self._random = random.Random(0)
        self._kind: dict[int, tuple[str, Any]] = {}  # of handles under way
        self._done: list[int] = []
        self._served = 0.0  # seconds that each task on the cores has had, since the beginning
        self._on_cores: list[tuple[float, int]] = []  # served when done, handle
        self._reads = 0  # on the cores
        self._scoring: list[tuple[float, int]] = []  # when done, handle
        self._free_at = [-math.inf] * shape.devices

    def adapt(self) -> None:
        """All nodes are there."""

    def ready(self, worker: int) -> bool:
        return True

    def replace(self, worker: int) -> None:
        """Nothing fails."""

    def blind_nodes(self, path: str, content: str) -> list[str]:
        return []

    def close(self) -> None:
        """There is nothing to end."""

    def read(self, units: Sequence[Unit]) -> Hashable:
        self._reads += 1
        tokens = self._shape.unit_tokens * len(units)
        return self._take_core("read", units, tokens / self._shape.core_rate)

    def commit(self, unit: Unit, passthrough: Any, poison: Any, pieces: Any) -> Hashable:
        seconds = self._costs.commit + self._costs.commit_token * self._shape.unit_tokens
        return self._take_core("commit", unit, seconds)

    def _take_core(self, kind: str, what: Any, seconds: float) -> int:
        handle = self._begin(kind, what)
        seconds *= self._random.uniform(1 - self._costs.spread, 1 + self._costs.spread)
        heapq.heappush(self._on_cores, (self._served + self._costs.start + seconds, handle))
        return handle

    def score(self, worker: int, tokens: Any, first: int, stop: int) -> Hashable:
        handle = self._begin("score", None)
        free = self._free_at[worker]
        begins = free + self._costs.gap if free > self.now else self.now + self._costs.wake
        self.first_batch = min(self.first_batch, begins)
        self._free_at[worker] = begins + self._shape.unit_tokens / self._shape.device_rate
        heapq.heappush(self._scoring, (self._free_at[worker], handle))
        return handle

    def _begin(self, kind: str, what: Any) -> int:
        handle = next(self._numbers)
        self._kind[handle] = kind, what
        return handle

    def wait(self, timeout: float) -> list[Hashable]:
        self._work(self._costs.look)
        if not self._done:
            self._pass(self._next_end() - self.now)
            self._work(self._costs.look)
        done, self._done = self._done, []
        return list(done)

    def result(self, handle: Any) -> Any:
        self._work(self._costs.event)
        kind, what = self._kind.pop(handle)
        if kind == "read":
            return [(None, None, unit.rows) for unit in what]
        if kind == "commit":
            return Record(what.id, True, Counts(what.rows))
        return None

    def _work(self, seconds: float) -> None:
        """The driver is busy."""
        self.driver += seconds
        self._pass(seconds)

    def _rate(self) -> float:
        """Seconds that each task on the cores gets in a second."""
        return min(1.0, self.readers.cores / len(self._on_cores))

    def _next_end(self) -> float:
        ends = [self._scoring[0][0]] if self._scoring else []
        if self._on_cores:
            ends.append(self.now + (self._on_cores[0][0] - self._served) / self._rate())
        return max(min(ends), self.now)

    def _pass(self, seconds: float) -> None:
        """Lets time go by; what ends meanwhile is done."""
        until = self.now + seconds
        while self._on_cores:
            rate = self._rate()
            end = self.now + (self._on_cores[0][0] - self._served) / rate
            if end > until:
                break
            self._serve(end, rate)
            _, handle = heapq.heappop(self._on_cores)
            self._done.append(handle)
            if self._kind[handle][0] == "read":
                self._reads -= 1
            else:
                self.last_commit = self.now
        self._serve(until, self._rate() if self._on_cores else 0.0)
        while self._scoring and self._scoring[0][0] <= until:
            self._done.append(heapq.heappop(self._scoring)[1])

    def _serve(self, until: float, rate: float) -> None:
        elapsed = max(until - self.now, 0.0)
        self._served += elapsed * rate
        self.reading += elapsed * self._reads
        self.now = max(until, self.now)
