"""The stages as Ray runs them: reads or commits as tasks, model workers as actors."""

import os
from typing import Any

import ray

from bertbatch.engines.probe import Probe
from bertbatch.engines.scoring import Scored
from bertbatch.model.tokens import Tokens
from bertbatch.runtime import probes, stages
from bertbatch.runtime.context import Context
from bertbatch.runtime.counts import Record
from bertbatch.runtime.kinds import find_device
from bertbatch.runtime.worker import ModelWorkers
from bertbatch.units import Unit

# A worker's share of a core, as Ray counts them: the rest is room for readers and commits,
# which need little and must not wait until a model worker is gone.
SCORER_SHARE = 0.75
TASK_SHARE = 0.25


class Scorer:
    """One model worker: loads its models once, for the whole run."""

    def __init__(self, context: Context, device: str, threads: int):
        if device == "cuda" and context.job.runtime.device == "auto":
            device = find_device()
        self._workers = ModelWorkers(context, device, threads)

    def loaded(self) -> tuple[str, tuple[str, ...]]:
        """Its node, and its kinds of worker, one for each model."""
        return ray.get_runtime_context().get_node_id(), self._workers.kinds

    def settle(
        self, probe: dict[str, Probe], known: dict[str, dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """What was chosen."""
        return self._workers.settle(probe, known)

    @ray.method(num_returns=2)
    def score(
        self, tokens: dict[str, Tokens], first: int, stop: int
    ) -> tuple[list[dict[str, Any]], dict[str, Scored]]:
        scored = self._workers.score(tokens, first, stop)
        return self._workers.describe(), scored


@ray.remote(num_cpus=TASK_SHARE, max_retries=2)
def make_probes(context: Context) -> dict[str, Probe]:
    """Loads the tokenizers in a process that a reader will use, while the models load.

    A broken one is known before the first write.
    """
    return probes.make_probes(context)


# Spread, because Ray would fill the driver's node first; a unit's tokens are about a megabyte, so
# that where they are made matters little. Commits go where most of their data are.
@ray.remote(num_cpus=TASK_SHARE, max_retries=2, scheduling_strategy="SPREAD")
def read(context: Context, units: list[Unit]) -> Any:
    # The tokenizer's threads would take the model workers' cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    prepared = stages.read_and_tokenize(context, units)
    pairs = [part for unit in prepared for part in (unit.tokens, unit.passthrough)]
    return [unit.rows for unit in prepared], *pairs


@ray.remote(num_cpus=TASK_SHARE, max_retries=2)
def commit(
    context: Context,
    unit: Unit,
    poison: list[tuple[int, str]],
    passthrough: Any,
    *pieces: dict[str, Scored],
) -> Record:
    return stages.commit(context, unit, passthrough, poison, pieces)
