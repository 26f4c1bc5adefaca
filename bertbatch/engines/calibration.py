"""Which engine and token budget are fastest for a corpus on this worker: measured on it."""

import logging
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from bertbatch.engines.engine import Engine, batches, load_engine
from bertbatch.engines.probe import Probe
from bertbatch.engines.scoring import score
from bertbatch.errors import JobError, OutOfMemory
from bertbatch.job.schema import Model
from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokens import Tokens
from bertbatch.tasks.task import task_of

log = logging.getLogger("bertbatch")

ENOUGH_TOKENS = 50_000  # in a unit: less is scored sooner than anything can be measured
SECONDS = 0.4  # of batches for each candidate
HOPELESS = 0.7  # of the best rate: an engine so far behind will not catch up by its budget
SAMPLE_TOKENS = 8192  # of the rows whose scores are compared
# How far scores may be from torch's for another engine to be chosen by its speed.
SCORE_TOLERANCE = 0.02


def calibrate(
    engine: Engine,
    spec: ModelSpec,
    settings: Model,
    threads: int,
    tokens: Tokens,
    probe: Probe,
) -> tuple[Engine, dict[str, float]]:
    """The fastest engine, set to its fastest budget, and the tokens/s of every candidate.

    Batches are drawn from the unit's own rows; the job's settings are not reconsidered. An
    engine whose scores are not those of the first is no candidate, however fast.
    """
    lengths = tokens.lengths
    expected = _scores(engine, spec, tokens)
    rates: dict[str, float] = {}
    best, chosen, chosen_budget = 0.0, engine, engine.tokens_per_batch
    for candidate in _candidates(engine, spec, settings, threads, probe):
        off = float(np.abs(_scores(candidate, spec, tokens) - expected).max())
        if off > SCORE_TOLERANCE:
            log.info(
                "%s %s is no candidate: its scores are off by %.2g",
                *(candidate.name, candidate.dtype, off),
            )
            continue
        budgets = candidate.budgets
        if settings.tokens_per_batch != "auto":
            budgets = (settings.tokens_per_batch,)
        for budget in budgets:
            candidate.tokens_per_batch = budget
            try:
                rate = _rate(candidate, tokens, lengths)
            except OutOfMemory:
                continue
            rates[f"{candidate.name} {candidate.dtype} {budget}"] = round(rate)
            if rate > best:
                best, chosen, chosen_budget = rate, candidate, budget
            elif rate < HOPELESS * best:
                break
    chosen.tokens_per_batch = chosen_budget
    return chosen, rates


def _candidates(
    engine: Engine, spec: ModelSpec, settings: Model, threads: int, probe: Probe
) -> Iterator[Engine]:
    yield engine
    if settings.engine == "auto" and engine.device == "cpu":
        try:
            # What torch fell back to is what the model can take.
            fixed = settings.model_copy(update={"dtype": engine.dtype})
            other = load_engine("openvino", spec, fixed, engine.device, threads)
            other.settle(probe)
            yield other
        except JobError as error:
            log.debug("not a candidate: %s", error)


def _scores(engine: Engine, spec: ModelSpec, tokens: Tokens) -> np.ndarray:
    """What the task makes of the first rows' logits: every class's probability, or the value."""
    some = max(int(np.searchsorted(tokens.offsets, SAMPLE_TOKENS)) - 1, 1)
    logits = score(engine, tokens, 0, some).logits
    column = task_of(spec).columns(logits)[-1]
    flat: np.ndarray = (column.flatten() if pa.types.is_list(column.type) else column).to_numpy()
    return flat


def _rate(engine: Engine, tokens: Tokens, lengths: np.ndarray) -> float:
    """Real tokens per second of batches drawn at random."""
    plan = list(batches(engine, lengths))
    watch = bool(tokens.sampled.all())
    order = np.random.default_rng(0).permutation(len(plan))
    done, began = 0, 0.0
    for count, i in enumerate(order):
        rows = plan[i]
        if count == 1:
            done, began = 0, time.perf_counter()  # the first one also sets things up
        engine.start(*tokens.take(rows), watch).logits()
        done += int(lengths[rows].sum())
        if count and time.perf_counter() - began > SECONDS:
            break
    return done / max(time.perf_counter() - began, 1e-9) if began else 0.0
