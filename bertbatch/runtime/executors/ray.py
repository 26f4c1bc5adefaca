"""The stages on Ray: reads or commits as tasks, model workers as actors.

Data passes from stage to stage by reference and never through the driver. Retries of
scoring are the scheduler's, which knows what was running; Ray only restarts tasks.
"""

import logging
import os
import socket
import time
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bertbatch.engines.probe import Probe
from bertbatch.engines.scoring import Scored
from bertbatch.errors import DeviceLost, JobError
from bertbatch.model.tokens import Tokens
from bertbatch.runtime import stages
from bertbatch.runtime.context import Context
from bertbatch.runtime.counts import Record
from bertbatch.runtime.executors.executor import DataLost, NodeGone, WorkerDied
from bertbatch.runtime.executors.ray_loading import Loading
from bertbatch.runtime.executors.ray_scratch import Scratch
from bertbatch.runtime.executors.ray_start import start_ray
from bertbatch.runtime.worker import ModelWorker, find_device, record_choice
from bertbatch.units import Unit

log = logging.getLogger("bertbatch")

# A worker's share of a core, as Ray counts them: the rest is room for readers and commits,
# which need little and must not wait until a model worker is gone.
SCORER_SHARE = 0.75
TASK_SHARE = 0.25
PATIENCE_SECONDS = 60  # for Ray to place the first worker, before the log says why it waits
RAYLET_SECONDS = 2.0  # for a node's raylet to accept a connection
ADAPT_SECONDS = 5.0  # between looks for nodes that have joined
FIRST_LOADS = 3  # workers that die while loading, none having loaded, before the job is refused
LOADS = 10  # workers that die while loading, before the run gives up


@dataclass(frozen=True)
class _Handle:
    """Work under way: what to wait for, and where its result stays."""

    done: Any
    data: tuple[Any, ...] = ()
    worker: int | None = None


class RayExecutor:
    def __init__(self, context: Context, verbose: bool = False):
        self._context = context
        self._mine = not ray.is_initialized()
        self._scratch: Scratch | None = None
        self._troubled = False  # whether a worker was replaced
        if self._mine:
            self._scratch = start_ray(verbose)
        self._actors: list[Any] = []
        self._look_again = time.monotonic() + ADAPT_SECONDS
        try:
            self._size_workers()
            self._context_ref = ray.put(context)
            self.kinds: dict[str, dict[str, Any]] = {}
            self._loading = Loading(_make_probe.remote(self._context_ref), self.kinds)
            self._actors = [self._actor() for _ in range(self.workers)]
            for worker, actor in enumerate(self._actors):
                self._loading.add(worker, actor)
            self._loads_failed = 0
            self._first_ready()
        except BaseException:
            self.close()
            raise

    def _size_workers(self) -> None:
        """How many model workers, and what of a node each takes."""
        runtime = self._context.job.runtime
        cores, gpus = _resources()
        if runtime.device == "cuda" and runtime.workers == "auto" and not any(gpus):
            raise JobError(
                "runtime.device is cuda, but Ray has no GPU: see `ray status`, or set "
                "runtime.workers if nodes with GPUs are started on demand"
            )
        found = "cuda" if any(gpus) else "cpu"
        self._device = found if runtime.device == "auto" else runtime.device
        # One worker for each core: several one-thread workers beat one many-thread worker by
        # a few percent. A worker cannot span nodes.
        self.workers = max(self._fit(), 1) if runtime.workers == "auto" else runtime.workers
        # At least a core each: those that do not fit wait for a node, and autoscalers see them.
        share = 1
        if self._device == "cpu" and any(cores):
            share = max(int(min(sum(cores) / self.workers, max(cores))), 1)
        self._threads = share
        self._share = share * SCORER_SHARE

    def _fit(self) -> int:
        """How many workers the cluster has room for as it is."""
        cores, gpus = _resources()
        if self._device == "cpu":
            return sum(cores)
        return sum(map(int, gpus)) * _to_a_gpu(self._context.job.runtime.gpus_per_worker)

    def adapt(self) -> None:
        if self._context.job.runtime.workers != "auto" or time.monotonic() < self._look_again:
            return
        self._look_again = time.monotonic() + ADAPT_SECONDS
        for worker in range(self.workers, self._fit()):
            log.info("there is room for one more model worker: %d now", worker + 1)
            self._actors.append(self._actor())
            self._loading.add(worker, self._actors[worker])
            self.workers = worker + 1

    def blind_nodes(self, path: str, content: str) -> list[str]:
        """The nodes that do not see a file with this content at a local path."""
        here = ray.get_runtime_context().get_node_id()
        asked = {}
        for node in ray.nodes():
            works = node["Alive"] and node["Resources"].get("CPU", 0) > 0
            if not works or node["NodeID"] == here:
                continue
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[_sees.options(scheduling_strategy=there).remote(path, content)] = node
        if not asked:
            return []
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=PATIENCE_SECONDS)
        blind = []
        for ref in done:
            with suppress(RayError):  # a node that has gone meanwhile writes nothing
                if not ray.get(ref):
                    blind.append(str(asked[ref]["NodeManagerHostname"]))
        return blind

    def _actor(self) -> Any:
        gpus = self._context.job.runtime.gpus_per_worker if self._device == "cuda" else 0
        actor_class = ray.remote(_Scorer).options(
            num_cpus=self._share, num_gpus=gpus, max_restarts=0, max_task_retries=0
        )
        return actor_class.remote(self._context_ref, self._device, self._threads)

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
        (chosen,) = self.kinds.values()
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
            self.replace(worker)
            return False
        if chosen is None:
            return False
        record_choice(self.kinds, chosen)
        self._loads_failed = 0
        return True

    def read(self, units: Sequence[Unit]) -> Hashable:
        count = 1 + 2 * len(units)
        refs: Any = _read.options(num_returns=count).remote(self._context_ref, list(units))
        return _Handle(refs[0], tuple(refs[1:]))

    def score(self, worker: int, tokens: Any, first: int, stop: int) -> Hashable:
        done, scored = self._actors[worker].score.remote(tokens, first, stop)
        return _Handle(done, (scored,), worker)

    def commit(
        self, unit: Unit, passthrough: Any, poison: Sequence[tuple[int, str]], pieces: Sequence[Any]
    ) -> Hashable:
        return _Handle(_commit.remote(self._context_ref, unit, list(poison), passthrough, *pieces))

    def wait(self, handles: Sequence[Any], timeout: float) -> list[Hashable]:
        by_ref = {handle.done: handle for handle in handles}
        done, _ = ray.wait(list(by_ref), num_returns=1, timeout=timeout, fetch_local=False)
        return [by_ref[ref] for ref in done]

    def result(self, handle: Any) -> Any:
        """What reading, scoring or committing gave, data as references."""
        value = self._get(handle.done, handle.worker)
        if isinstance(value, list):  # rows to score of each unit that was read
            pairs = zip(handle.data[::2], handle.data[1::2], value, strict=True)
            return list(pairs)
        if isinstance(value, dict):  # what the worker that scored has chosen
            record_choice(self.kinds, value)
            return handle.data[0]
        return value

    def _get(self, ref: Any, worker: int | None = None) -> Any:
        """The value. Raises what the work raised, as itself; WorkerDied if its process is gone,
        NodeGone if its node is, DataLost if what it needs was on a node that is gone."""
        try:
            return ray.get(ref)
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
            gone = worker is not None and _node_gone(self._loading.nodes.get(worker))
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


class _Scorer:
    """One model worker: loads its model once, for the whole run."""

    def __init__(self, context: Context, device: str, threads: int):
        if device == "cuda" and context.job.runtime.device == "auto":
            device = find_device()
        self._worker = ModelWorker.of(context, device, threads)

    def loaded(self) -> tuple[str, str]:
        """Its node, and its kind of worker."""
        return ray.get_runtime_context().get_node_id(), self._worker.kind

    def settle(self, probe: Probe, known: dict[str, Any] | None) -> dict[str, Any]:
        """What was chosen."""
        return self._worker.settle(probe, known)

    @ray.method(num_returns=2)
    def score(self, tokens: Tokens, first: int, stop: int) -> tuple[dict[str, Any], Scored]:
        scored = self._worker.score(tokens, first, stop)
        return self._worker.describe(), scored


@ray.remote(num_cpus=TASK_SHARE, max_retries=2)
def _make_probe(context: Context) -> Probe:
    """Loads the tokenizer in a process that a reader will use, while the models load.

    A broken one is known before the first write.
    """
    return stages.make_probe(context)


# Spread, because Ray would fill the driver's node first; a unit's tokens are about a megabyte, so
# that where they are made matters little. Commits go where most of their data are.
@ray.remote(num_cpus=TASK_SHARE, max_retries=2, scheduling_strategy="SPREAD")
def _read(context: Context, units: list[Unit]) -> Any:
    # The tokenizer's threads would take the model workers' cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    prepared = stages.read_and_tokenize(context, units)
    pairs = [part for unit in prepared for part in (unit.tokens, unit.passthrough)]
    return [unit.rows for unit in prepared], *pairs


@ray.remote(num_cpus=TASK_SHARE, max_retries=2)
def _commit(
    context: Context, unit: Unit, poison: list[tuple[int, str]], passthrough: Any, *pieces: Scored
) -> Record:
    return stages.commit(context, unit, passthrough, poison, pieces)


@ray.remote(num_cpus=TASK_SHARE, max_retries=2)
def _sees(path: str, content: str) -> bool:
    try:
        return content in Path(path).read_text()
    except OSError:
        return False


def _resources() -> tuple[list[int], list[float]]:
    """Cores and GPUs of each node that is there."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [int(n.get("CPU", 0)) for n in nodes], [float(n.get("GPU", 0)) for n in nodes]


def _to_a_gpu(share: float) -> int:
    """How many workers that take this share of a GPU fit on one: none lies across two.

    Ray counts whole ten-thousandths, rounded down, so that three of 1/3 fit.
    """
    return 10_000 // max(int(share * 10_000), 1)


def _node_gone(id_: str | None) -> bool:
    """Whether a node is gone, as its raylet tells: Ray itself notices only after many seconds."""
    for node in ray.nodes():
        if node["NodeID"] == id_ and node["Alive"]:
            address = (node["NodeManagerAddress"], node["NodeManagerPort"])
            try:
                socket.create_connection(address, timeout=RAYLET_SECONDS).close()
            except OSError:
                return True
            return False
    return id_ is not None


def _constructor_error(error: RayActorError) -> str | None:
    """The message of the JobError that a worker's start raised, if that is why it is gone."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, JobError):
        return str(cause)
    text = str(error)
    marker = f"{JobError.__module__}.{JobError.__qualname__}: "
    return text.rpartition(marker)[2].strip() if marker in text else None
