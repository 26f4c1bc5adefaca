"""The stages on Ray: reads or commits as tasks, model workers as actors.

Data passes from stage to stage by reference and never through the driver. Retries of
scoring are the scheduler's, which knows what was running; Ray only restarts tasks.
"""

import logging
import math
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

from bertbatch.errors import DataLost, DeviceLost, JobError
from bertbatch.runtime.context import Context
from bertbatch.runtime.executors import ray_nodes, ray_stages
from bertbatch.runtime.executors.executor import NodeGone, Readers, WorkerDied, told
from bertbatch.runtime.executors.ray_loading import Loading
from bertbatch.runtime.executors.ray_start import start_ray
from bertbatch.runtime.kinds import record_choices
from bertbatch.runtime.phases import phase
from bertbatch.runtime.scratch import Scratch
from bertbatch.runtime.worker import THREADS
from bertbatch.units import Unit

log = logging.getLogger("bertbatch")

PATIENCE_SECONDS = 60  # for Ray to place the first worker, before the log says why it waits
ADAPT_SECONDS = 5.0  # between looks for nodes that have joined
FIRST_LOADS = 3  # workers that die while loading, none having loaded, before the job is refused
STORE_SHARE = 0.4  # of the object stores, for what is read but not committed
WORKERS_A_READER = 4  # where no cores are free: on CPUs a model takes far longer than reading
FEW_CORES = 4  # on which workers load one after the other
LOADS = 10  # workers that die while loading, before the run gives up


@dataclass(frozen=True, eq=False)
class _Handle:
    """Work under way: its small result once it is there, and where its data stay."""

    done: Future[Any]
    data: tuple[Any, ...] = ()
    worker: int | None = None


class RayExecutor:
    workers: int

    def __init__(self, context: Context, verbose: bool = False):
        self._context = context
        self._mine = not ray.is_initialized()
        self._scratch: Scratch | None = None
        self._troubled = False  # whether a worker was replaced
        self._done: SimpleQueue[_Handle] = SimpleQueue()
        if self._mine:
            phase("starting Ray")
            self._scratch = start_ray(verbose)
        phase("loading the model")
        self._actors: list[Any] = []
        self._look_again = time.monotonic() + ADAPT_SECONDS
        try:
            self._size_workers()
            self._context_ref = ray.put(context)
            self.kinds: dict[str, dict[str, Any]] = {}
            self._loading = Loading(ray_stages.make_probes.remote(self._context_ref), self.kinds)
            self._loads_failed = 0
            all_, self.workers = self.workers, 1 if self._few_cores() else self.workers
            self._add_actors()
            self._first_ready()
            self.workers = all_
            self._add_actors()
        except BaseException:
            self.close()
            raise

    def _size_workers(self) -> None:
        """How many model workers, and what of a node each takes."""
        runtime = self._context.job.runtime
        found = ray_nodes.resources()
        cores, gpus = found.cores, found.gpus
        if runtime.device == "cuda" and runtime.workers == "auto" and not any(gpus):
            raise JobError(
                "runtime.device is cuda, but Ray has no GPU: see `ray status`, or set "
                "runtime.workers if nodes with GPUs are started on demand"
            )
        here = "cuda" if any(gpus) else "cpu"
        self._device = here if runtime.device == "auto" else runtime.device
        # One worker for each core: several one-thread workers beat one many-thread worker by
        # a few percent. A worker cannot span nodes.
        self.workers = max(self._fit(found), 1) if runtime.workers == "auto" else runtime.workers
        # At least a core each: those that do not fit wait for a node, and autoscalers see them.
        share = 1
        if self._device == "cpu" and any(cores):
            share = max(int(min(sum(cores) / self.workers, max(cores))), 1)
        self._threads = share
        self._share = share * ray_stages.SCORER_SHARE
        self._size_readers(found)

    def _size_readers(self, found: ray_nodes.Resources) -> None:
        """Reading may take the cores that the workers leave."""
        free = max(sum(found.cores) - self.workers * self._threads, 0)
        most = max(free, 1 + math.ceil(self.workers / WORKERS_A_READER))
        self.readers = Readers(free, most, int(found.store * STORE_SHARE))

    def _fit(self, found: ray_nodes.Resources) -> int:
        """How many workers the cluster has room for."""
        if self._device == "cpu":
            return sum(found.cores)
        return sum(map(int, found.gpus)) * ray_nodes.to_a_gpu(
            self._context.job.runtime.gpus_per_worker
        )

    def adapt(self) -> None:
        if time.monotonic() < self._look_again:
            return
        self._look_again = time.monotonic() + ADAPT_SECONDS
        found = ray_nodes.resources()
        auto = self._context.job.runtime.workers == "auto"
        for worker in range(self.workers, self._fit(found) if auto else 0):
            log.info("there is room for one more model worker: %d now", worker + 1)
            self.workers = worker + 1
            self._add_actors()
        self._size_readers(found)

    def blind_nodes(self, path: str, content: str) -> list[str]:
        """The nodes that do not see a file with this content at a local path."""
        return ray_nodes.blind_nodes(path, content)

    def _actor(self) -> Any:
        gpus = self._context.job.runtime.gpus_per_worker if self._device == "cuda" else 0
        actor_class = ray.remote(ray_stages.Scorer).options(
            num_cpus=self._share,
            num_gpus=gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=THREADS[self._device],
        )
        return actor_class.remote(self._context_ref, self._device, self._threads)

    def _add_actors(self) -> None:
        """Up to the number of workers."""
        for worker in range(len(self._actors), self.workers):
            self._actors.append(self._actor())
            self._loading.add(worker, self._actors[worker])

    def _few_cores(self) -> bool:
        """Whether the first worker is ready sooner if it loads alone, beside the first reader.

        On a cluster all are asked for at once: an autoscaler should see them.
        """
        auto = self._context.job.runtime.workers == "auto"
        return self._mine and auto and self._device == "cpu" and self.workers <= FEW_CORES

    def _first_ready(self) -> None:
        """Waits for one worker to be ready. Raises JobError if it cannot be."""
        while True:
            worker = self._loading.wait(PATIENCE_SECONDS)
            if worker is None:
                if not self._loading.nodes:
                    log.warning(
                        "no model worker has begun after %d s; each asks Ray for %.2f CPUs%s: is "
                        "the cluster busy? See `ray status`",
                        PATIENCE_SECONDS,
                        self._share,
                        " and a GPU" if self._device == "cuda" else "",
                    )
                continue
            if self._look(worker, FIRST_LOADS):
                break
        chosen = next(iter(self.kinds.values()))
        if self._device == "cuda" and chosen["device"] != "cuda":
            log.warning(
                "Ray has GPUs, but torch finds none where a model worker runs: it scores on its "
                "CPU. Is torch there a build for CUDA? runtime.device: cuda makes this an error"
            )

    def ready(self, worker: int) -> bool:
        return not self._loading.pending(worker) or self._look(worker, LOADS)

    def _look(self, worker: int, most: int) -> bool:
        """Whether a worker has become ready; one that died is replaced. Raises JobError."""
        try:
            chosen = self._loading.look(worker, self._get)
        except (WorkerDied, DeviceLost) as error:
            self._loads_failed += 1
            if self._loads_failed >= most:
                raise JobError(
                    f"{most} model workers died while loading ({error}); is there enough memory?"
                ) from None
            log.warning("a model worker died while it loaded; a new one replaces it")
            self.replace(worker)
            return False
        if chosen is None:
            return False
        record_choices(self.kinds, chosen)
        self._loads_failed = 0
        return True

    def read(self, units: Sequence[Unit]) -> Hashable:
        count = 1 + 2 * len(units)
        refs: Any = ray_stages.read.options(num_returns=count).remote(
            self._context_ref, list(units)
        )
        return self._begun(refs[0], tuple(refs[1:]))

    def score(self, worker: int, tokens: Any, first: int, stop: int) -> Hashable:
        done, scored = self._actors[worker].score.remote(tokens, first, stop)
        return self._begun(done, (scored,), worker)

    def commit(
        self, unit: Unit, passthrough: Any, poison: Sequence[tuple[int, str]], pieces: Sequence[Any]
    ) -> Hashable:
        ref = ray_stages.commit.remote(self._context_ref, unit, list(poison), passthrough, *pieces)
        return self._begun(ref)

    def _begun(self, ref: Any, data: tuple[Any, ...] = (), worker: int | None = None) -> Hashable:
        """Ray tells when the work is done; asking it costs the more, the more is under way."""
        handle = _Handle(ref.future(), data, worker)
        handle.done.add_done_callback(lambda _: self._done.put(handle))
        return handle

    def wait(self, timeout: float) -> list[Hashable]:
        return told(self._done, timeout)

    def result(self, handle: Any) -> Any:
        """What reading, scoring or committing gave, data as references."""
        value = self._value(handle.done.result, handle.worker)
        if handle.worker is not None:  # what the worker that scored has chosen
            record_choices(self.kinds, value)
            return handle.data[0]
        if handle.data:  # rows to score of each unit that was read
            pairs = zip(handle.data[::2], handle.data[1::2], value, strict=True)
            return list(pairs)
        return value

    def _get(self, ref: Any) -> Any:
        return self._value(partial(ray.get, ref))

    def _value(self, get: Callable[[], Any], worker: int | None = None) -> Any:
        """What `get` returns.

        Raises what the work raised, as itself; WorkerDied if its process is gone, NodeGone if its
        node is, DataLost if what it needs was on a node that is gone.
        """
        try:
            return get()
        except RayTaskError as error:
            if isinstance(error.cause, RayError):  # of what it was given, not of its own work
                raise DataLost(str(error.cause)) from None
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except ObjectLostError as error:
            raise DataLost(str(error)) from None
        except RayActorError as error:
            reason = _constructor_error(error)
            if reason:
                raise JobError(reason) from None
            gone = worker is not None and ray_nodes.is_gone(self._loading.nodes.get(worker))
            raise (NodeGone if gone else WorkerDied)(str(error)) from None
        except RayError as error:  # killed for memory, say
            raise WorkerDied(str(error)) from None

    def replace(self, worker: int) -> None:
        self._troubled = True
        ray.kill(self._actors[worker])
        self._actors[worker] = self._actor()
        self._loading.add(worker, self._actors[worker])

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        if self._mine:
            ray.shutdown()
        if self._scratch:
            if self._troubled:
                log.info("Ray's logs are kept in %s until the next run here", self._scratch.path)
            self._scratch.close(keep=self._troubled)


def _constructor_error(error: RayActorError) -> str | None:
    """The message of the JobError that a worker's start raised, if that is why it is gone."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, JobError):
        return str(cause)
    text = str(error)
    marker = f"{JobError.__module__}.{JobError.__qualname__}: "
    return text.rpartition(marker)[2].strip() if marker in text else None
