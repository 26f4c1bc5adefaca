"""What an executor is: where the stages of a run are done.

A new executor is one file with one class that follows `Executor`, and one line in
`runtime/executors/start.py`.
"""

from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from bertbatch.engines import batching
from bertbatch.units import Unit


class WorkerDied(Exception):
    """The process of a model worker is gone."""


class NodeGone(WorkerDied):
    """A model worker is gone together with its node: no row is to blame."""


@dataclass(frozen=True)
class Readers:
    """What may be read at a time.

    `cores` is how many the model workers leave free, `most` how many read tasks may run once
    the first has ended. `memory` bytes of text and carried columns may be read but not committed.
    """

    cores: int
    most: int
    memory: int


IN_ONE_PROCESS = Readers(cores=0, most=1, memory=512 << 20)


class Executor(Protocol):
    """Where the stages run. Handles stand for work under way; `wait` tells which is done.

    `workers` is how many there are, and may grow, as `readers` may. `kinds` is what each kind of
    worker chose, for the log and the run's record.
    """

    @property
    def workers(self) -> int: ...

    @property
    def readers(self) -> Readers: ...

    @property
    def kinds(self) -> dict[str, dict[str, Any]]: ...

    def adapt(self) -> None:
        """Takes up nodes that have joined; called again and again."""

    def ready(self, worker: int) -> bool:
        """Whether a worker has its model. Raises JobError if it cannot have it."""

    def read(self, units: Sequence[Unit]) -> Hashable:
        """Starts a read task. Its result: a list of (tokens, passthrough, rows to score).

        Both stay opaque to the scheduler.
        """

    def score(self, worker: int, tokens: Any, first: int, stop: int) -> Hashable:
        """Starts scoring rows on one worker, behind what it has. Its result stays opaque."""

    def commit(
        self, unit: Unit, passthrough: Any, poison: Sequence[tuple[int, str]], pieces: Sequence[Any]
    ) -> Hashable:
        """Starts a commit. Its result: the Record."""

    def wait(self, timeout: float) -> list[Hashable]:
        """All that are done and were not told before, after at least one is.

        After the timeout (seconds) none. There may be work of workers that were replaced, too.
        """

    def result(self, handle: Hashable) -> Any:
        """Raises what the work raised; WorkerDied if its process is gone, DataLost if data are.

        DeviceLost, if its process can work no more; RunError, if there can be no other.
        """

    def replace(self, worker: int) -> None:
        """Puts a fresh worker in the place of a dead or a failing one."""

    def blind_nodes(self, path: str, content: str) -> list[str]:
        """The nodes on which a local file is not there, or has not this content."""

    def close(self) -> None:
        """Ends all work at once; what is not committed is lost."""


def chosen(executor: Executor) -> dict[str, Any]:
    """What a run's record says of its workers: how many, and what each kind of them chose."""
    kinds = executor.kinds
    return {"workers": executor.workers, "batches": batching.VERSION, "kinds": kinds}


def told(done: "SimpleQueue[Any]", timeout: float) -> list[Hashable]:
    """All that is in the queue, after at least one is; after the timeout (seconds) nothing."""
    found: list[Hashable] = []
    with suppress(Empty):
        found.append(done.get(timeout=timeout))
        while True:
            found.append(done.get_nowait())
    return found
