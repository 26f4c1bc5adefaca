"""What a run of a job would do, source by source."""

from collections import Counter
from dataclasses import dataclass, field

from bertbatch.runtime.preflight import Preflight
from bertbatch.runtime.source_changes import Changes

DONE, PENDING, NEW, CHANGED = "done", "pending", "new", "changed"
REMOVED, REFUSED = "removed", "refused"


@dataclass
class SourceEstimate:
    """A source's size, units and rows; `refused` says why it cannot be scored, if so."""

    bytes: int = 0
    units: int = 0
    rows_done: int = 0
    rows_pending: int = 0
    state: str = NEW  # as the table says it
    refused: str = ""


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

    @property
    def bytes(self) -> int:
        return sum(source.bytes for source in self.sources.values())

    def count(self, state: str) -> int:
        return sum(source.state == state for source in self.sources.values())


def estimate(preflight: Preflight, changes: Changes) -> Estimate:
    """Plans every source in memory; nothing is written."""
    before = dict(preflight.plan.sources)
    planner = preflight.planner(store_entries=False)
    planner.failed.update(changes.failed)
    for _ in planner.extend(preflight.listing.sources):
        pass
    sources = {
        source.id: SourceEstimate(source.size, state=PENDING if source.id in before else NEW)
        for source in preflight.listing.sources
    }
    found = Estimate(sources, left_out=preflight.listing.left_out)
    for unit in preflight.plan.units.values():
        done = unit.id in preflight.committed
        found.units_done += done
        found.units_pending += not done
        for span in unit.spans:
            gone = SourceEstimate(span.source.size, state=PENDING)
            source = sources.setdefault(span.source.id, gone)
            if unit.retry:
                continue  # its rows were counted
            source.units += 1
            source.rows_done += span.cut.rows * done
            source.rows_pending += span.cut.rows * (not done)
    for id_, source in sources.items():
        if source.state == PENDING and not source.rows_pending:
            source.state = DONE
        listed = preflight.listed.get(id_)
        if id_ in changes.withdraw or (id_ in before and listed not in (None, before[id_])):
            source.state = CHANGED
        elif listed is None and source.state == DONE:
            source.state = REMOVED
    for id_, reason in planner.failed.items():
        source = sources.setdefault(id_, SourceEstimate())
        source.state, source.refused = REFUSED, reason
    return found
