"""Sources that are no longer as they were planned."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from bertbatch.errors import JobError
from bertbatch.runtime.preflight import Preflight
from bertbatch.units import Source, Unit
from bertbatch.wording import counted, shorten

log = logging.getLogger("bertbatch")


@dataclass
class Changes:
    """Sources to take out of the plan, and those that cannot be wholly scored, with the reason."""

    withdraw: set[str]
    failed: dict[str, str]


def find_changes(preflight: Preflight) -> Changes:
    """Sources that changed or vanished after they were planned.

    Raises JobError if the job says to fail then.
    """
    options, listed = preflight.job.input, preflight.listed
    planned = preflight.plan.sources.values()
    gone = [s for s in planned if s.id not in listed]
    changed = [s for s in planned if s.id in listed and listed[s.id] != s]
    if gone and options.on_removed_source == "fail":
        raise JobError(
            f"{options.path} no longer has {_some(gone)} of the plan; restore them, or set "
            "input.on_removed_source: keep to keep what is scored of them"
        )
    repaired = _repaired(preflight, changed)
    others = [source for source in changed if source.id not in repaired]
    if others and options.on_changed_source == "fail":
        raise JobError(
            f"{_some(others)} changed after being planned for this output, and an output "
            "never mixes answers; score into a new output, such as one with the date, or set "
            "input.on_changed_source: keep to keep what is scored of the old content"
            + _only_times(preflight, others)
        )
    units_of: dict[str, list[Unit]] = {source.id: [] for source in (*gone, *others)}
    for unit in preflight.plan.units.values():
        for span in unit.spans if not unit.retry else ():
            if span.source.id in units_of:
                units_of[span.source.id].append(unit)
    found = Changes(repaired, {})
    kept: list[str] = []
    removed: list[str] = []
    for id_, units in units_of.items():
        scored = [unit.id in preflight.committed for unit in units]
        what = "changed" if id_ in listed else "is gone"
        if units and not any(scored):
            log.info("%s %s before any of it was scored; it is taken out of the plan", id_, what)
            found.withdraw.add(id_)
        elif not all(scored):
            found.failed[id_] = f"{what} before all of it was scored"
        elif units:
            (kept if id_ in listed else removed).append(id_)
    if kept:
        log.info("changed after being scored; the old answers are kept: %s", shorten(kept))
    if removed:
        log.info("no longer there; the answers are kept: %s", shorten(removed))
    return found


def _repaired(preflight: Preflight, changed: list[Source]) -> set[str]:
    """Changed sources that an earlier run found broken, and that were never wholly scored.

    What had been scored of them will be withdrawn: it is not known whether the repaired
    source has the same rows.
    """
    if not changed:
        return set()
    broken: dict[str, str] = {}
    for record in preflight.output.runs():
        broken |= {id_: mark for id_, (mark, _) in record["failed_sources"].items()}
    unfinished = {
        span.source.id
        for unit in preflight.plan.units.values()
        for span in unit.spans
        if unit.id not in preflight.committed
    }
    planned = preflight.plan.sources
    return {
        s.id
        for s in changed
        if s.id in unfinished and broken.get(s.id) == planned[s.id].fingerprint
    }


def _only_times(preflight: Preflight, changed: Sequence[Source]) -> str:
    """What to say if all changed sources have their sizes: a copy of a file has a new time, too."""
    if any(preflight.listed[source.id].size != source.size for source in changed):
        return ""
    return (
        " (their sizes are as they were; if only their times or etags changed, as when files are "
        "copied again, keep is right)"
    )


def _some(sources: Sequence[Source]) -> str:
    return f"{counted(len(sources), 'source')} ({shorten([source.id for source in sources])})"
