"""What the pipeline asks of a runner: to start work, to tell what is done, and how it failed."""

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from bertbatch.units import Unit


class WorkerDied(Exception):
    """The process of a model worker is gone."""


class NodeGone(WorkerDied):
    """A model worker is gone together with its node: no row is to blame."""


class DataLost(Exception):
    """What a stage had made was on a node that is gone."""


class Executor(Protocol):
    """Where the stages run. Handles stand for work under way; `wait` tells which is done."""

    workers: int  # may grow

    def adapt(self) -> None:
        """Takes up nodes that have joined; called again and again."""

    def ready(self, worker: int) -> bool:
        """Whether a worker has its model. Raises JobError if it cannot have it."""

    def read(self, units: Sequence[Unit]) -> Hashable:
        """Starts a read task. Its result: a list of (tokens, aside, rows to score)."""

    def score(self, worker: int, tokens: Any, first: int, stop: int) -> Hashable:
        """Starts scoring rows on one worker, behind what it has. Its result stays opaque."""

    def commit(
        self, unit: Unit, aside: Any, poison: Sequence[tuple[int, str]], pieces: Sequence[Any]
    ) -> Hashable:
        """Starts a commit. Its result: the Record."""

    def wait(self, handles: Sequence[Hashable], timeout: float) -> list[Hashable]:
        """Those that are done, after at least one is or the timeout (seconds) is over."""

    def result(self, handle: Hashable) -> Any:
        """Raises what the work raised; WorkerDied if its process is gone, DataLost if data are.

        DeviceLost, if its process can work no more; RunError, if there can be no other.
        """

    def replace(self, worker: int) -> None:
        """Puts a fresh worker in the place of a dead or a failing one."""
