"""The fastest engine for a corpus on this worker, measured with its token budgets."""

import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bertbatch.engines.batching import Batching
from bertbatch.engines.engine import Engine, EngineOptions, Running, batches, load_engine
from bertbatch.engines.probe import Probe
from bertbatch.engines.scoring import AHEAD, score
from bertbatch.errors import JobError, OutOfMemory
from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokens import Tokens
from bertbatch.registry import ENGINES
from bertbatch.tasks.single_label import activated
from bertbatch.tasks.task import apart, by_name, numbers, task_of

log = logging.getLogger("bertbatch")

ENOUGH_TOKENS = 50_000  # in a unit: scoring fewer takes less time than measuring
SECONDS = 0.4  # of batches for each candidate
MOST_BATCHES = 1000
FULL = 0.8  # of the largest batch: others are what is left over
HOPELESS = 0.7  # of the best rate: no other budget makes up for that
SAMPLE_TOKENS = 8192  # in the rows whose scores are compared
# How far another engine's scores may be from torch's.
SCORE_TOLERANCE = 0.02


def calibrate(
    engine: Engine, spec: ModelSpec, options: EngineOptions, tokens: Tokens, probe: Probe
) -> tuple[Engine, dict[str, float]]:
    """The fastest engine, set to its fastest budget, and the tokens/s of every candidate.

    Batches are drawn from the unit's own rows. What the job sets is not reconsidered. An engine
    whose scores differ from those of the first is rejected, however fast it is. `options` are
    those of the first.
    """
    lengths = tokens.lengths
    what, expected = _scores(engine, spec, tokens)
    rates: dict[str, float] = {}
    best, chosen, chosen_budget = 0.0, engine, engine.tokens_per_batch
    for candidate in _candidates(engine, spec, options, probe):
        off = apart(_scores(candidate, spec, tokens)[1], expected, what)
        if off > SCORE_TOLERANCE:
            reason = f"its scores are off by {off:.2g}"
            log.info("%s %s is rejected: %s", candidate.name, candidate.dtype, reason)
            continue
        asked = options.settings.tokens_per_batch
        for budget in candidate.budgets if asked == "auto" else (asked,):
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
    engine: Engine, spec: ModelSpec, options: EngineOptions, probe: Probe
) -> Iterator[Engine]:
    yield engine
    if options.settings.engine != "auto" or engine.device != "cpu":
        return
    for name in [name for name in ENGINES if name != engine.name]:
        # The precision that the first engine has found to work for the model.
        fixed = options.settings.model_copy(update={"engine": name, "dtype": engine.dtype})
        try:
            other = load_engine(spec, replace(options, settings=fixed))
            other.settle(probe)
        except JobError as error:
            log.debug("not a candidate: %s", error)
            continue
        yield other


def _scores(engine: Engine, spec: ModelSpec, tokens: Tokens) -> tuple[str, np.ndarray]:
    """A column with numbers of the first rows, and these: every class's probability, or values."""
    some = max(int(np.searchsorted(tokens.offsets, SAMPLE_TOKENS)) - 1, 1)
    answers = score(engine, tokens, 0, some).answers
    if engine.per_token or spec.asked.task == "zero_shot":
        return "scores", activated(answers.values, "softmax")
    return next(iter(numbers(by_name(task_of(spec), answers)).items()))


def _rate(engine: Engine, tokens: Tokens, lengths: np.ndarray) -> float:
    """Real tokens per second of full batches drawn at random.

    The next batch is started before an answer is fetched, as in scoring. Batches of what is left
    over at the end are no measure.
    """
    plan = list(batches(engine, lengths))
    sizes = np.array([_size(engine, lengths[rows]) for rows in plan])
    full = np.flatnonzero(sizes >= FULL * sizes.max())
    order = np.random.default_rng(0).permutation(full)
    with_statistics = bool(tokens.sampled.all())
    running: deque[tuple[int, Running]] = deque()
    done, began, end = 0, 0.0, 0.0
    for count in range(MOST_BATCHES):
        rows = plan[order[count % len(order)]]
        started = engine.start(tokens.take(rows, with_statistics))
        running.append((int(lengths[rows].sum()), started))
        if len(running) > AHEAD:
            size, first = running.popleft()
            first.answer()
            end = time.perf_counter()
            if not began:
                began = end  # the first one also sets things up
            else:
                done += size
            if done and end - began > SECONDS:
                break
    return done / max(end - began, 1e-9)


def _size(engine: Engine, lengths: np.ndarray) -> int:
    """The tokens of a batch, with padding if there is any."""
    packed = engine.batching is Batching.PACKED
    return int(lengths.sum() if packed else len(lengths) * lengths.max())


def rough_rate(engine: Engine, probe: Probe) -> float:
    """Tokens per second of full batches of the probe's rows, before there are others.

    0 if they are too much for the memory: scoring finds out what is not.
    """
    count = len(probe.tokens.lengths)
    times = -(-2 * engine.tokens_per_batch // len(probe.tokens.ids))
    tokens = probe.tokens.repeated(np.tile(np.arange(count), times))
    try:
        return round(_rate(engine, tokens, tokens.lengths))
    except OutOfMemory:
        return 0.0
