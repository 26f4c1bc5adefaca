"""What is worth knowing before the work begins."""

import logging

from bertbatch.runtime.preflight import Preflight
from bertbatch.wording import counted

log = logging.getLogger("bertbatch")


def tell_before(preflight: Preflight) -> None:
    """Logs which files are left out, and what the job's choices cost."""
    for reason, count in preflight.listing.left_out.items():
        log.info("left out %s: %s", counted(count, "file"), reason)
    for dtype in {spec.quantization for spec in preflight.specs.values()} - {None}:
        log.warning(
            "model.dtype %s changes answers: some labels will not be those of float32", dtype
        )
    if preflight.job.attention:
        log.info(
            "attention statistics: computed by the torch engine only; long texts take 1.3 to "
            "3.5 times as long, the most with AMX"
        )
