"""What is worth knowing of a run, told once."""

import logging
from collections.abc import Iterator

from bertbatch.output.folder import Output
from bertbatch.output.part import is_part
from bertbatch.runtime.counts import Counts
from bertbatch.runtime.preflight import Preflight
from bertbatch.wording import counted, shorten

log = logging.getLogger("bertbatch")


def tell_before(preflight: Preflight) -> None:
    """Logs which files are left out, and what the job's choices cost."""
    for reason, count in preflight.listing.left_out.items():
        log.info("left out %s: %s", counted(count, "file"), reason)
    for notice in other_files(preflight.output) if preflight.is_new else ():
        log.warning("%s", notice)
    for dtype in {spec.quantization for spec in preflight.specs.values()} - {None}:
        log.warning(
            "model.dtype %s changes answers: some labels will not be those of float32", dtype
        )
    if preflight.job.attention:
        log.info(
            "attention statistics: computed by the torch engine only, and long texts take longer "
            "(docs/attention.md says how much)"
        )


def other_files(output: Output) -> Iterator[str]:
    """What to say of an output's folder that also holds something else."""
    others = [name for name in output.store.names(output.path) if not is_part(name)]
    if others := [name for name in others if name != "_SUCCESS.json"]:
        yield (
            f"output.path {output.path} also holds {shorten(others)}, which are not bertbatch's; "
            "a folder of its own is easier to read and to delete"
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
