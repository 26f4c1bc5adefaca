"""A child process as long as it lives, then Ray.

A row may have killed the child. Ray can run such rows alone, in processes that may die.
"""

import logging
import time
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from bertbatch.runtime.context import Context
from bertbatch.runtime.executors.child import Child, ChildExecutor, ChildHandle, Held
from bertbatch.runtime.executors.executor import Executor, Readers
from bertbatch.units import Unit

if TYPE_CHECKING:
    from bertbatch.runtime.executors.ray import RayExecutor

log = logging.getLogger("bertbatch")

ASK_SECONDS = 0.05  # between questions whether Ray's first worker is ready


class ChildThenRay:
    def __init__(self, child: Child, context: Context, verbose: bool):
        """Raises JobError if the model cannot be had, WorkerDied if the child is gone."""
        self._context, self._verbose = context, verbose
        self._child = ChildExecutor(child, context)
        self._ray: RayExecutor | None = None
        self._replaced = False  # whether the scheduler is yet to ask for what was done

    @property
    def workers(self) -> int:
        return self._ray.workers if self._ray else 1

    @property
    def readers(self) -> Readers:
        return self._ray.readers if self._ray else self._child.readers

    @property
    def kinds(self) -> dict[str, dict[str, Any]]:
        return {**self._child.kinds, **(self._ray.kinds if self._ray else {})}

    def _now(self) -> Executor:
        """Who gets new work."""
        if self._ray is None and self._child.dead:
            self._replaced = self._child.died_scoring
            log.warning("the child process died (%s); the run goes on with Ray", self._child.dead)
            self._go_on_with_ray()
        return self._ray or self._child

    def _go_on_with_ray(self) -> None:
        from bertbatch.runtime.executors.ray import RayExecutor

        self._child.close()
        self._ray = RayExecutor(self._context, self._verbose)
        while not self._ray.ready(0):  # the scheduler believes that its worker has a model
            time.sleep(ASK_SECONDS)

    def adapt(self) -> None:
        if self._ray:
            self._ray.adapt()

    def ready(self, worker: int) -> bool:
        return self._ray.ready(worker) if self._ray else True

    def read(self, units: Sequence[Unit]) -> Hashable:
        return self._now().read(units)

    def score(self, worker: int, tokens: Any, first: int, stop: int) -> Hashable:
        on = self._child if isinstance(tokens, Held) else self._now()
        return on.score(worker, tokens, first, stop)

    def commit(
        self, unit: Unit, passthrough: Any, poison: Sequence[tuple[int, str]], pieces: Sequence[Any]
    ) -> Hashable:
        on = self._child if isinstance(passthrough, Held) else self._now()
        return on.commit(unit, passthrough, poison, pieces)

    def wait(self, timeout: float) -> list[Hashable]:
        if self._ray is None:
            return self._child.wait(timeout)
        return self._child.wait(0) or self._ray.wait(timeout)

    def result(self, handle: Any) -> Any:
        if isinstance(handle, ChildHandle):
            return self._child.result(handle)
        assert self._ray
        return self._ray.result(handle)

    def replace(self, worker: int) -> None:
        if self._replaced:
            self._replaced = False
        elif self._ray:
            self._ray.replace(worker)
        else:
            log.warning("the run goes on with Ray, which runs rows that may be the cause alone")
            self._go_on_with_ray()

    def blind_nodes(self, path: str, content: str) -> list[str]:
        return self._now().blind_nodes(path, content)

    def close(self) -> None:
        self._child.close()
        if self._ray:
            self._ray.close()
