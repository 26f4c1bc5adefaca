"""How long a job will take, least to most: here by a measured rate, elsewhere by a given one."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot

from bertbatch.checks.text_sample import Lengths, Sample
from bertbatch.runtime.executors.cpus import available_cores
from bertbatch.runtime.kinds import find_device, threads_of
from bertbatch.runtime.preflight import Preflight
from bertbatch.runtime.probes import make_probes
from bertbatch.runtime.stages import read_and_tokenize
from bertbatch.runtime.worker import ModelWorkers

SIGMAS = 2  # standard errors of the mean length
BUSY = 0.9  # share of the time that devices score, at least: docs/performance.md, sizing a cluster
MEASURED_SECONDS = 3.0
UNITS_READ = 20  # at most, to find rows to measure with


@dataclass(frozen=True)
class Elsewhere:
    """Machines that the job may run on: workers, tokens/s of each, the price of one for an hour."""

    workers: int
    rate: float
    price: float | None = None


@dataclass(frozen=True)
class Forecast:
    """Least and most, of tokens, of seconds of scoring, of cost in the price's currency."""

    tokens: tuple[float, float]
    seconds: tuple[float, float]
    rate: float
    basis: str
    cost: tuple[float, float] | None = None


def tokens_left(lengths: Sequence[Lengths], sample: Sample, rows: int) -> tuple[float, float]:
    """How many tokens so many rows will have, least and most, over all models.

    Those that `input.where` leaves out have none.
    """
    share, doubt = sample.selected, sample.selected_error
    mean = share * sum(one.scored_mean for one in lengths)
    errors = (hypot(share * one.scored_error, doubt * one.scored_mean) for one in lengths)
    error = SIGMAS * sum(errors)
    return max(mean - error, 0.0) * rows, (mean + error) * rows


def forecast(tokens: tuple[float, float], rate: float, basis: str) -> Forecast:
    """By a rate in tokens/s that was measured here."""
    least, most = tokens
    return Forecast(tokens, (least / rate, most / rate), rate, basis)


def forecast_elsewhere(tokens: tuple[float, float], where: Elsewhere) -> Forecast:
    """On other machines: devices that are always busy, or only as much as they were simulated."""
    rate = where.workers * where.rate
    seconds = (tokens[0] / rate, tokens[1] / rate / BUSY)
    cost = None
    if where.price is not None:
        hourly = where.workers * where.price
        cost = (seconds[0] / 3600 * hourly, seconds[1] / 3600 * hourly)
    return Forecast(tokens, seconds, rate, "the rate that was given", cost)


def last_rate(preflight: Preflight) -> float | None:
    """Tokens/s of the last run that scored, over all models, if it was on this processor."""
    record = preflight.last_scored
    if record is None or not all(map(threads_of, record["chosen"]["kinds"])):
        return None
    return float(record["tokens"] / record["scoring_seconds"])


def measured_rate(preflight: Preflight, sample: Sample) -> float | None:
    """Tokens/s of this process, with all its cores, over the sample; None without texts.

    Loads the models. Raises JobError if they cannot be loaded.
    """
    context = preflight.context()
    if not sample.texts:
        return None
    device = context.job.runtime.device
    device = find_device() if device == "auto" else device
    workers = ModelWorkers(context, device, available_cores())
    workers.settle(make_probes(context), {})
    units = [u for u in preflight.plan.units.values() if not u.retry and preflight.as_planned(u)]
    read = (one for unit in units[:UNITS_READ] for one in read_and_tokenize(context, [unit]))
    prepared = next((one for one in read if one.rows), None)  # `input.where` may leave out many
    if prepared is None:
        return None
    rows = min(prepared.rows, 512)
    workers.score(prepared.tokens, 0, min(rows, 32))  # the first batches choose operators
    tokens, began = 0, time.perf_counter()
    while time.perf_counter() - began < MEASURED_SECONDS:
        scored = workers.score(prepared.tokens, 0, rows)
        tokens += sum(one.real_tokens for one in scored.values())
    return tokens / (time.perf_counter() - began)
