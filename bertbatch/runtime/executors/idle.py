"""The executor of a run that has no rows to score, so that it need not load a model."""

from collections.abc import Hashable, Sequence
from typing import Any, NoReturn

from bertbatch.errors import RunError
from bertbatch.runtime.executors.executor import IN_ONE_PROCESS
from bertbatch.units import Unit


class IdleExecutor:
    workers = 0
    readers = IN_ONE_PROCESS

    def __init__(self) -> None:
        self.kinds: dict[str, dict[str, Any]] = {}

    def adapt(self) -> None:
        """Nothing joins."""

    def ready(self, worker: int) -> bool:
        return True

    def read(self, units: Sequence[Unit]) -> Hashable:
        """Raises RunError: rows have come since the input was looked at."""
        return self._refuse()

    def score(self, worker: int, tokens: Any, first: int, stop: int) -> Hashable:
        return self._refuse()

    def commit(
        self, unit: Unit, passthrough: Any, poison: Sequence[tuple[int, str]], pieces: Sequence[Any]
    ) -> Hashable:
        return self._refuse()

    def wait(self, timeout: float) -> list[Hashable]:
        return []

    def result(self, handle: Hashable) -> Any:
        return self._refuse()

    def replace(self, worker: int) -> None:
        """There is none."""

    def blind_nodes(self, path: str, content: str) -> list[str]:
        return []

    def close(self) -> None:
        """Nothing runs."""

    def _refuse(self) -> NoReturn:
        raise RunError("rows came while the run began; run the same command again")
