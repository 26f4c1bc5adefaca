"""What is worth knowing of a run, told once."""

import logging

from bertbatch.runtime.counts import Counts
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
            "attention statistics: computed by the torch engine only, and long texts take longer "
            "(docs/attention.md says how much)"
        )


class QuarantineReasons:
    """Logs each reason for quarantine when it first comes up, up to a number of them."""

    MOST = 10

    def __init__(self) -> None:
        self._told: set[str] = set()

    def look(self, counts: Counts) -> None:
        for reason in counts.reasons.keys() - self._told:
            self._told.add(reason)
            if len(self._told) <= self.MOST:
                log.warning("quarantined: %s", reason)
            elif len(self._told) == self.MOST + 1:
                log.warning("quarantined: more reasons; the summary has the most frequent ones")
