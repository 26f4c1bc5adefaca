"""Changes to what is planned, safe against crash and company: broken sources, rows scored again.

Each change is first an entry of the plan, then settled: a unit out of force gets a part
without rows in its place, so that a run that still believes in it cannot commit it. Nobody
may run what takes its place before that, so that no row is ever there twice. A crash between
the two leaves the settling to whoever reads the entry next.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from bertbatch.output import commit
from bertbatch.output.folder import Output
from bertbatch.plan.planner import ENTRY_SOURCES, Entry, PlanLog
from bertbatch.units import Again, Source, Span, Unit


def regroup(
    plan: PlanLog, output: Output, schema: pa.Schema, unit: Unit, rest: Sequence[Span]
) -> list[Unit]:
    """Puts a unit of several sources out of force, and plans some of its sources again.

    Returns the units to run, with those that other runs have planned meanwhile; none if the
    unit has been committed after all.
    """

    def entry() -> Entry | None:
        if unit.id not in plan.units or _has_rows(output, unit):
            return None
        return Entry([span.source for span in rest], [tuple(rest)], [unit.id])

    return _change(plan, output, schema, entry)


def withdraw(plan: PlanLog, output: Output, schema: pa.Schema, sources: set[str]) -> None:
    """Puts all units of these sources out of force; the sources count as never planned.

    Parts that had been committed of them lose their rows: only for sources that were broken.
    """

    def entry() -> Entry | None:
        units = [
            u
            for u in plan.units.values()
            if not u.again and any(s.source.id in sources for s in u.spans)
        ]
        rest = [tuple(s for s in u.spans if s.source.id not in sources) for u in units]
        good = [spans for spans in rest if spans]
        named = [span.source for spans in good for span in spans]
        return Entry(named, good, [unit.id for unit in units]) if units else None

    _change(plan, output, schema, entry)


def plan_again(
    plan: PlanLog, output: Output, schema: pa.Schema, listed: Mapping[str, Source]
) -> None:
    """Plans the rows that are in quarantine to be scored once more, where their source is there.

    Not those that only come there meanwhile, by another run that scores them again without
    success: the two would chase each other.
    """
    known = set(plan.units)

    def entry() -> Entry | None:
        found = (again for again in to_score_again(plan, output, listed) if again.unit in known)
        again = list(islice(found, ENTRY_SOURCES))
        return Entry([], [], again=again) if again else None

    while _change(plan, output, schema, entry):
        pass


def to_score_again(plan: PlanLog, output: Output, listed: Mapping[str, Source]) -> Iterator[Again]:
    """Rows in quarantine that no other unit scores again, of sources that are as planned."""
    taken = {unit.again.unit for unit in plan.units.values() if unit.again}
    suspected = output.quarantine_files() - taken
    for unit in list(plan.units.values()):
        footer = output.footer(unit.part) if unit.id in suspected else None
        path = footer and footer["side_files"].get("quarantine")
        if not path:
            continue
        try:
            bad = output.side(path)
        except FileNotFoundError:
            if _has_rows(output, unit):
                raise
            continue  # another run has withdrawn the unit meanwhile
        there = {s.source.id for s in unit.spans if listed.get(s.source.id) == s.source}
        places = zip(bad["source"].to_pylist(), bad["row"].to_pylist(), strict=True)
        rows = tuple(sorted(place for place in places if place[0] in there))
        if rows:
            yield Again(unit.id, rows)


def settle(plan: PlanLog, output: Output, schema: pa.Schema) -> None:
    """Sees to it that no unit out of force has, or can get, a part with rows."""
    for unit in list(plan.unsettled.values()):
        commit.write_tombstone(output, unit, schema)
        del plan.unsettled[unit.id]


def conclude(
    plan: PlanLog, output: Output, schema: pa.Schema, judge: Callable[[], dict[str, Any] | None]
) -> None:
    """Writes `_SUCCESS.json` if `judge` gives its record, for the plan as it is at the end.

    Whoever appends to the plan clears `_SUCCESS.json` after that, and here the plan is looked
    at again after writing: of two runs at once, one sees what the other has done.
    """
    while True:
        plan.refresh()
        settle(plan, output, schema)
        size = plan.size
        record = judge()
        if record is None:
            return
        output.write_success(record)
        plan.refresh()
        if plan.size == size:
            return
        output.clear_success()


def _change(
    plan: PlanLog, output: Output, schema: pa.Schema, make: Callable[[], Entry | None]
) -> list[Unit]:
    """Appends an entry, made anew whenever another run's was first, and settles it."""
    added: list[Unit] = []
    while entry := make():
        ours, units = plan.append(entry)
        added += units
        if ours:
            output.clear_success()
            break
    settle(plan, output, schema)
    return [unit for unit in added if unit.id in plan.units]


def _has_rows(output: Output, unit: Unit) -> bool:
    footer = output.footer(unit.part)
    return footer is not None and not footer.get("void")
