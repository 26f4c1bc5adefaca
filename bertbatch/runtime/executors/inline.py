"""One process, no Ray: a thread reads ahead, one scores, one commits.

Starts at once, is easy to debug, and is the reference that Ray's cost is measured against.
A row that kills its worker, or takes the GPU from it, ends this runner; the Ray runner
isolates it. `runtime.runner: auto` has it in a child process, and goes on with Ray.
"""

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from queue import SimpleQueue
from typing import Any

from bertbatch.errors import DeviceLost, RunError
from bertbatch.model.tokens import Tokens
from bertbatch.runtime import stages
from bertbatch.runtime.context import Context
from bertbatch.runtime.executors.cpus import available_cores
from bertbatch.runtime.executors.executor import IN_ONE_PROCESS, told
from bertbatch.runtime.kinds import find_device, record_choices
from bertbatch.runtime.phases import phase
from bertbatch.runtime.probes import make_probes
from bertbatch.runtime.worker import THREADS, ModelWorkers
from bertbatch.units import Unit


class Stopped(Exception):
    """The run is winding down; the unit is left for the next run."""


class _Held:
    """What a stage has made, opaque to the scheduler as a reference is on Ray."""

    def __init__(self, value: Any):
        self.value = value


class InlineExecutor:
    workers = 1
    readers = IN_ONE_PROCESS
    _alone = True

    def __init__(
        self, context: Context, done: "SimpleQueue[Any] | None" = None, alone: bool = True
    ):
        """`done` is where handles go when their work is; `alone` says that no other process could
        go on without this one. Raises JobError if the model cannot be had.
        """
        self._context, self._alone = context, alone
        self._stop = threading.Event()
        self._done: SimpleQueue[Any] = done or SimpleQueue()
        device = context.job.runtime.device
        if device == "auto":
            device = find_device()
        self._reader, self._committer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._scorer = ThreadPoolExecutor(THREADS[device])
        with self._gpu():
            phase("loading the model")
            self._workers = ModelWorkers(context, device, available_cores())
            phase("trying out batches")
            self.kinds = record_choices({}, self._workers.settle(make_probes(context), {}))

    def adapt(self) -> None:
        """There is only this process."""

    def blind_nodes(self, path: str, content: str) -> list[str]:
        return []

    def ready(self, worker: int) -> bool:
        return True

    def read(self, units: Sequence[Unit]) -> Hashable:
        return self._begin(self._reader, self._read, units)

    def _read(self, units: Sequence[Unit]) -> list[tuple[Any, Any, int]]:
        prepared = stages.read_and_tokenize(self._context, units)
        return [(_Held(unit.tokens), _Held(unit.passthrough), unit.rows) for unit in prepared]

    def score(self, worker: int, tokens: Any, first: int, stop: int) -> Hashable:
        return self._begin(self._scorer, self._score, tokens.value, first, stop)

    def _score(self, tokens: Mapping[str, Tokens], first: int, stop: int) -> _Held:
        with self._gpu():
            scored = self._workers.score(tokens, first, stop, self._check_stopped)
        record_choices(self.kinds, self._workers.describe())
        return _Held(scored)

    def _gpu(self) -> AbstractContextManager[None]:
        return _last_gpu() if self._alone else nullcontext()

    def _check_stopped(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def commit(
        self, unit: Unit, passthrough: Any, poison: Sequence[tuple[int, str]], pieces: Sequence[Any]
    ) -> Hashable:
        scored = [piece.value for piece in pieces]
        return self._begin(
            self._committer, stages.commit, self._context, unit, passthrough.value, poison, scored
        )

    def _begin(self, pool: ThreadPoolExecutor, what: Callable[..., Any], *given: Any) -> Hashable:
        future = pool.submit(what, *given)
        future.add_done_callback(self._done.put)
        return future

    def wait(self, timeout: float) -> list[Hashable]:
        return told(self._done, timeout)

    def result(self, handle: Any) -> Any:
        return handle.result()

    def replace(self, worker: int) -> None:
        """There is only this process: nothing to replace."""

    def close(self) -> None:
        self._stop.set()
        for pool in (self._reader, self._scorer, self._committer):
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _last_gpu() -> Iterator[None]:
    """Raises RunError if the GPU is lost: there can be no other process here."""
    try:
        yield
    except DeviceLost as error:
        raise RunError(
            f"this process can no longer use its GPU ({error}), perhaps because of one row. Set "
            "runtime.runner: ray and run again: there a new worker takes over, and if a row is "
            "the cause, it goes to quarantine"
        ) from None
