"""Where `runtime.runner: auto` has a run's work done.

A child process where the whole input would be scored before Ray is up, else Ray. The scores are
estimated from the input's size and the model's, or by the rate of the last run on this output.
Neither torch nor Ray is imported for that.
"""

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertbatch.job.schema import Job
from bertbatch.output.records import number
from bertbatch.registry import CODECS
from bertbatch.runtime.executors.cpus import available_cores, can
from bertbatch.runtime.kinds import threads_of

if TYPE_CHECKING:
    from bertbatch.runtime.preflight import Preflight

RAY_SECONDS = 8.0  # that Ray takes longer than a child process to begin, on two cores
# Floating-point operations that a core does in a second, at least: half of what a processor with
# AVX2 reaches in large products (docs/performance.md). Too little only means Ray.
CORE_RATE = 40e9
AVX512_RATE = 80e9  # the same with AVX512, whose registers are twice as wide
BFLOAT16_RATE = 150e9  # the same with bfloat16 instructions: half of what MiniLM reaches, or less
GPU_RATE = 5e12  # the same of a GPU: one of 2018 reaches ten times as much
MOST_CORES = 8  # that threads of one worker gain by; Ray has a worker for each core
BYTES_PER_TOKEN = 3  # English has four or more to a token, Japanese three
COMPRESSED = 4.0  # times that text is larger than Parquet, gzip or zstandard stores it
_PACKED = (".parquet", ".pq", *CODECS)
WITH_STATISTICS = 2.0  # times the work of a forward pass alone
LARGE = 64 << 20  # bytes
ENOUGH_SECONDS = 1.0  # of scoring, for its rate to tell anything


def ray_reason(job: Job) -> str | None:
    """Why a job runs on Ray however small its input is; None if it need not."""
    runtime = job.runtime
    ray = sys.modules.get("ray")
    gpus = 0 if runtime.device == "cpu" else visible_gpus()
    if os.environ.get("RAY_ADDRESS"):
        return "RAY_ADDRESS is set"
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return "the job was submitted to Ray"
    if ray is not None and ray.is_initialized():
        return "Ray is running in this process"
    if runtime.workers != "auto":
        return f"runtime.workers is {runtime.workers}"
    if gpus and runtime.gpus_per_worker != 1:
        return f"runtime.gpus_per_worker is {runtime.gpus_per_worker:g}"
    if gpus > 1:
        return f"there are {gpus} GPUs"
    return "the input is large" if _is_large(job) else None


def _is_large(job: Job) -> bool:
    """Whether no model could be so small that a child scores a local file soon enough."""
    if job.input.limit is not None:
        return False
    try:
        return any(os.path.getsize(p) > LARGE for p in job.input.paths if os.path.isfile(p))
    except OSError:
        return False


def in_memory(job: Job) -> bool:
    """Whether a job reads or writes what exists in this process only."""
    return any(path.startswith("memory:") for path in [*job.input.paths, job.output.path])


def scoring_seconds(preflight: "Preflight") -> float:
    """How long one process would take to score what is left, roughly, and rather too long."""
    job, specs = preflight.job, preflight.specs
    tokens = _bytes_left(preflight) / BYTES_PER_TOKEN
    if job.input.limit is not None:
        longest = max(spec.max_length for spec in specs.values())
        tokens = min(tokens, float(job.input.limit * longest))
    if job.runtime.device != "cpu" and visible_gpus():
        return tokens * _work(preflight) / GPU_RATE
    cores = min(available_cores(), MOST_CORES)
    dtypes = {model.dtype for model in job.each_model.values()}
    fast = dtypes <= {"auto", "bfloat16"} and (can("amx_bf16") or can("avx512_bf16"))
    wide = AVX512_RATE if can("avx512f") else CORE_RATE
    rate = (BFLOAT16_RATE if fast else wide) / _work(preflight)
    return tokens / cores / (_last_rate(preflight) or rate)


def _bytes_left(preflight: "Preflight") -> float:
    """The bytes of text in pending units and in sources that are to be planned."""
    known = preflight.plan.sources
    left = float(sum(unit.bytes for unit in preflight.pending(preflight.plan.units.values())))
    for source in preflight.listing.sources:
        if known.get(source.id) != source:
            left += source.size * (COMPRESSED if source.path.lower().endswith(_PACKED) else 1.0)
    return left


def _work(preflight: "Preflight") -> float:
    """Floating-point operations for a token, of all models."""
    parameters = sum(spec.parameters for spec in preflight.specs.values())
    return 2.0 * parameters * (WITH_STATISTICS if preflight.job.attention else 1.0)


def _last_rate(preflight: "Preflight") -> float | None:
    """Tokens/s of one core in the last run here that scored, if it was on such a processor.

    A token counts once, however many models read it.
    """
    if (record := preflight.last_scored) is None:
        return None
    tokens, seconds = float(record["tokens"]), float(record["scoring_seconds"])
    workers: Any = record["chosen"].get("workers")
    threads = set(map(threads_of, record["chosen"]["kinds"]))
    known = number(workers) and workers > 0 and len(threads) == 1 and all(threads)
    if not known or seconds < ENOUGH_SECONDS:
        return None
    return tokens / seconds / float(workers * threads.pop()) / len(preflight.specs)


def visible_gpus() -> int:
    """How many GPUs torch may find here; 0 if it is a build for CPUs."""
    try:
        if version("torch").endswith("+cpu"):
            return 0
    except PackageNotFoundError:
        return 0
    there = sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia*"))
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return there
    return min(there, sum(name.strip() not in ("", "-1") for name in named.split(",")))
