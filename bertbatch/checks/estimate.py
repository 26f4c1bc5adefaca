"""What a run of a job would do, source by source."""

from collections import Counter
from dataclasses import dataclass, field

from bertbatch.runtime.preflight import Preflight
from bertbatch.runtime.source_changes import Changes


@dataclass
class SourceEstimate:
    """A source's units and rows; `failed` says why it cannot be planned, if so."""

    units: int = 0
    rows_done: int = 0
    rows_pending: int = 0
    failed: str = ""


@dataclass
class Estimate:
    """The sources by id, the units in all, and how many files are left out by reason."""

    sources: dict[str, SourceEstimate]
    units_done: int = 0
    units_pending: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def rows_done(self) -> int:
        return sum(source.rows_done for source in self.sources.values())

    @property
    def rows_pending(self) -> int:
        return sum(source.rows_pending for source in self.sources.values())


def estimate(preflight: Preflight, changes: Changes) -> Estimate:
    """Plans every source in memory; nothing is written."""
    planner = preflight.planner(store_entries=False)
    planner.failed.update(changes.failed)
    for _ in planner.extend(preflight.listing.sources):
        pass
    sources = {source.id: SourceEstimate() for source in preflight.listing.sources}
    found = Estimate(sources, left_out=preflight.listing.left_out)
    for unit in preflight.plan.units.values():
        done = unit.id in preflight.committed
        found.units_done += done
        found.units_pending += not done
        for span in unit.spans:
            source = sources.setdefault(span.source.id, SourceEstimate())
            source.units += 1
            source.rows_done += span.cut.rows * done
            source.rows_pending += span.cut.rows * (not done)
    for id_, reason in planner.failed.items():
        sources.setdefault(id_, SourceEstimate()).failed = reason
    return found
