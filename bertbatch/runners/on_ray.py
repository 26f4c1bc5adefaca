"""The stages on Ray: reading and committing as tasks, one long-lived actor per model worker.

Data passes from stage to stage by reference and never through the driver. Retries of
scoring are the pipeline's, which knows what was running; Ray only restarts tasks.
"""

import logging
import os
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from bertbatch import stages
from bertbatch.errors import JobError
from bertbatch.pipeline import WorkerDied
from bertbatch.runners.cores import available_cores
from bertbatch.scoring import Scored
from bertbatch.stages import Context, Record
from bertbatch.tokenizer import Tokens, get_tokenizer
from bertbatch.units import Unit
from bertbatch.worker import ModelWorker, note

log = logging.getLogger("bertbatch")

# A worker's share of a core, as Ray counts them: the rest is room for readers and commits,
# which need little and must not wait until a model worker is gone.
SCORER_SHARE = 0.75
TASK_SHARE = 0.25
PATIENCE_SECONDS = 60  # for Ray to place the first worker, before the log says why it waits
LOADS = 10  # workers that die while loading, before the run gives up


@dataclass(frozen=True)
class _Handle:
    """Work under way: what to wait for, and where its result stays."""

    done: Any
    data: tuple[Any, ...] = ()


class RayExecutor:
    def __init__(self, context: Context, verbose: bool = False):
        self._context = context
        self._mine = not ray.is_initialized()
        if self._mine:
            _start_ray(verbose)
        self._actors: list[Any] = []
        try:
            self._size_workers()
            self._context_ref = ray.put(context)
            warm = _warm_up.remote(self._context_ref)
            self._actors = [self._actor() for _ in range(self.workers)]
            self._loading = {w: a.describe.remote() for w, a in enumerate(self._actors)}
            self._loads_failed = 0
            self.kinds = note({}, self._first_loaded())
            with suppress(WorkerDied):  # readers have retries of their own
                self._get(warm)  # a broken tokenizer is known before the first write
        except BaseException:
            self.close()
            raise

    def _size_workers(self) -> None:
        """How many model workers, and what of a node each takes."""
        runtime = self._context.job.runtime
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = [node.get("GPU", 0) for node in nodes]
        cores = [int(node.get("CPU", 0)) for node in nodes]
        if runtime.device == "cuda" and not any(gpus):
            raise JobError("runtime.device is cuda, but Ray has no GPU; see `ray status`")
        self._device = "cuda" if any(gpus) and runtime.device != "cpu" else "cpu"
        # One worker for each core: several one-thread workers beat one many-thread worker by
        # a few percent. A worker cannot span nodes.
        fit = sum(int(gpu / runtime.gpus_per_worker) for gpu in gpus)
        auto = fit if self._device == "cuda" else sum(cores)
        self.workers = max(auto, 1) if runtime.workers == "auto" else runtime.workers
        share = min(sum(cores) / self.workers, max(cores)) if self._device == "cpu" else 1.0
        self._threads = max(int(share), 1)
        self._share = min(self._threads, share) * SCORER_SHARE

    def _actor(self) -> Any:
        gpus = self._context.job.runtime.gpus_per_worker if self._device == "cuda" else 0
        actor_class = ray.remote(_Scorer).options(
            num_cpus=self._share, num_gpus=gpus, max_restarts=0, max_task_retries=0
        )
        return actor_class.remote(self._context_ref, self._device, self._threads)

    def _first_loaded(self) -> dict[str, Any]:
        """Waits for one worker to have its model. Raises JobError if it cannot have it."""
        pending = list(self._loading.values())
        ready, _ = ray.wait(pending, num_returns=1, timeout=PATIENCE_SECONDS)
        while not ready:
            log.warning(
                "no model worker has begun after %d s; each asks Ray for %.2f CPUs%s: is the "
                "cluster busy? See `ray status`",
                *(PATIENCE_SECONDS, self._share, " and a GPU" if self._device == "cuda" else ""),
            )
            ready, _ = ray.wait(pending, num_returns=1, timeout=PATIENCE_SECONDS)
        try:
            chosen: dict[str, Any] = self._get(ready[0])
        except WorkerDied as error:
            raise JobError(f"a model worker died while loading: {error}") from None
        return chosen

    def ready(self, worker: int) -> bool:
        if worker not in self._loading:
            return True
        done, _ = ray.wait([self._loading[worker]], timeout=0)
        if not done:
            return False
        try:
            self._get(self._loading.pop(worker))
        except WorkerDied:
            self._loads_failed += 1
            if self._loads_failed >= LOADS:
                raise JobError(
                    f"{LOADS} model workers died while loading; is there enough memory?"
                ) from None
            self.replace(worker)
            return False
        return True

    def read(self, units: Sequence[Unit]) -> Hashable:
        count = 1 + 2 * len(units)
        refs: Any = _read.options(num_returns=count).remote(self._context_ref, list(units))
        return _Handle(refs[0], tuple(refs[1:]))

    def score(self, worker: int, tokens: Any, first: int, stop: int) -> Hashable:
        done, scored = self._actors[worker].score.remote(tokens, first, stop)
        return _Handle(done, (scored,))

    def commit(
        self, unit: Unit, aside: Any, poison: Sequence[tuple[int, str]], pieces: Sequence[Any]
    ) -> Hashable:
        return _Handle(_commit.remote(self._context_ref, unit, list(poison), aside, *pieces))

    def wait(self, handles: Sequence[Any], timeout: float) -> list[Hashable]:
        by_ref = {handle.done: handle for handle in handles}
        done, _ = ray.wait(list(by_ref), num_returns=1, timeout=timeout, fetch_local=False)
        return [by_ref[ref] for ref in done]

    def result(self, handle: Any) -> Any:
        """What reading, scoring or committing gave, data as references."""
        value = self._get(handle.done)
        if isinstance(value, list):  # rows to score of each unit that was read
            pairs = zip(handle.data[::2], handle.data[1::2], value, strict=True)
            return list(pairs)
        if isinstance(value, dict):  # what the worker that scored has chosen
            note(self.kinds, value)
            return handle.data[0]
        return value

    def _get(self, ref: Any) -> Any:
        """The value. Raises what the work raised, as itself; WorkerDied if its process is gone."""
        try:
            return ray.get(ref)
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except RayActorError as error:
            reason = _constructor_error(error)
            raise (JobError(reason) if reason else WorkerDied(str(error))) from None
        except RayError as error:  # killed for memory, or what it had on a node is lost
            raise WorkerDied(str(error)) from None

    def replace(self, worker: int) -> None:
        ray.kill(self._actors[worker])
        self._actors[worker] = self._actor()
        self._loading[worker] = self._actors[worker].describe.remote()

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        if self._mine:
            ray.shutdown()


class _Scorer:
    """One model worker: loads its model once, for the whole run."""

    def __init__(self, context: Context, device: str, threads: int):
        self._worker = ModelWorker(
            *(context.spec, context.job.model, device, threads, context.known, context.large),
            context.job.attention,
        )

    def describe(self) -> dict[str, Any]:
        return self._worker.describe()

    @ray.method(num_returns=2)
    def score(self, tokens: Tokens, first: int, stop: int) -> tuple[dict[str, Any], Scored]:
        scored = self._worker.score(tokens, first, stop)
        return self._worker.describe(), scored


@ray.remote(num_cpus=TASK_SHARE, max_retries=0)
def _warm_up(context: Context) -> None:
    """Loads the tokenizer in a process that a reader will use, while the models load."""
    get_tokenizer(context.spec)


@ray.remote(num_cpus=TASK_SHARE, max_retries=2)
def _read(context: Context, units: list[Unit]) -> Any:
    # The tokenizer's threads would take the model workers' cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    prepared = stages.read_and_tokenize(context, units)
    pairs = [part for unit in prepared for part in (unit.tokens, unit.aside)]
    return [unit.rows for unit in prepared], *pairs


@ray.remote(num_cpus=TASK_SHARE, max_retries=2)
def _commit(
    context: Context, unit: Unit, poison: list[tuple[int, str]], aside: Any, *pieces: Scored
) -> Record:
    return stages.commit(context, unit, aside, poison, pieces)


def _start_ray(verbose: bool) -> None:
    """Joins the cluster that RAY_ADDRESS names, or starts Ray on this machine."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {}
    if "RAY_ADDRESS" not in os.environ:
        # By default Ray ends a process that has had no task for a second if there are more
        # than cores, and the next read would import and load its tokenizer anew.
        keep = {"idle_worker_killing_time_threshold_ms": 600_000}
        options = {
            "address": "local",
            "num_cpus": available_cores(),
            "include_dashboard": False,
            "_system_config": keep,
        }
    ray.init(
        log_to_driver=verbose,
        logging_level=logging.INFO if verbose else logging.ERROR,
        **options,
    )


def _constructor_error(error: RayActorError) -> str | None:
    """The message of the JobError that a worker's start raised, if that is why it is gone."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, JobError):
        return str(cause)
    text = str(error)
    marker = f"{JobError.__module__}.{JobError.__qualname__}: "
    return text.rpartition(marker)[2].strip() if marker in text else None
