"""How large units are."""

from bertbatch.inputs.formats.reader import CutSize
from bertbatch.job.schema import Runtime

# About 126k tokens: large enough that reading, committing and Ray cost little beside the
# scoring, small enough that a worker's death costs little.
UNIT_MIB = 1.0
TOKENS_PER_MIB = 126_000
UNIT_CARRIED_BYTES = 64 << 20
UNIT_ROWS = 1 << 16
# A small input is cut finer, so that many workers can share it and end together, but not so fine
# that batches are no longer filled.
UNITS = 64
UNITS_A_WORKER = 16
LEAST_TEXT_BYTES = 1 << 16
MOST_MIB = 64.0
# The driver is one process that has to follow every unit.
UNITS_PER_SECOND = 160


def auto_mib(workers: int, rate: float) -> float:
    """MiB of text in a unit, so that the driver can follow workers of `rate` tokens/s each."""
    least = workers * rate / UNITS_PER_SECOND / TOKENS_PER_MIB
    return min(max(UNIT_MIB, least), MOST_MIB)


def cut_size(runtime: Runtime, input_bytes: int, workers: int = 1, rate: float = 0.0) -> CutSize:
    """How large the units of an input of this many bytes may grow.

    `rate`: tokens/s of each worker, 0 if unknown.
    """
    auto = runtime.unit_mib == "auto"
    mib = auto_mib(workers, rate) if auto else float(runtime.unit_mib)
    text_bytes = int(mib * (1 << 20))
    if auto:
        shared = input_bytes // max(UNITS, UNITS_A_WORKER * workers)
        text_bytes = min(max(shared, LEAST_TEXT_BYTES), text_bytes)
    more = max(mib, 1.0)
    rows = runtime.unit_rows or int(more * UNIT_ROWS)
    return CutSize(text_bytes, max(UNIT_CARRIED_BYTES, text_bytes), rows)
