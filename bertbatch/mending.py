"""Changes to what is planned, when a source turns out broken: safe against crash and company.

Each change is first an entry of the plan, then settled: a unit out of force gets a part
without rows in its place, so that a run that still believes in it cannot commit it. A crash
between the two leaves the settling to the next run's start.
"""

from collections.abc import Sequence

import pyarrow as pa

from bertbatch import commit
from bertbatch.output import Output
from bertbatch.plan import Entry, PlanLog
from bertbatch.units import Span, Unit


def regroup(
    plan: PlanLog, output: Output, schema: pa.Schema, unit: Unit, rest: Sequence[Span]
) -> list[Unit]:
    """Puts a unit of several sources out of force, and plans some of its sources again.

    Returns the units to run; none if the unit had been committed after all.
    """
    entry = Entry([span.source for span in rest], [tuple(rest)], dropped=[unit.id])
    _append(plan, entry, unit.id)
    settle(plan, output, schema)
    return [u for u in plan.units.values() if u.spans == tuple(rest)]


def withdraw(plan: PlanLog, output: Output, schema: pa.Schema, sources: set[str]) -> None:
    """Puts all units of these sources out of force; the sources count as never planned.

    Parts that had been committed of them are deleted: only for sources that were broken.
    """
    units = [
        unit for unit in plan.units.values() if any(s.source.id in sources for s in unit.spans)
    ]
    rest = [[s for s in unit.spans if s.source.id not in sources] for unit in units]
    good = [tuple(spans) for spans in rest if spans]
    entry = Entry(
        [s.source for spans in good for s in spans], good, withdrawn=[unit.id for unit in units]
    )
    while not plan.append(entry)[0]:
        pass  # another run's entry was first: it is read, and ours comes after it
    settle(plan, output, schema)


def settle(plan: PlanLog, output: Output, schema: pa.Schema) -> None:
    """Sees to it that no unit out of force has, or can get, a part with rows."""
    for unit in list(plan.withdrawn.values()):
        footer = output.footer(unit.part)
        if footer is not None and not footer.get("void"):
            output.store.delete(output.at(unit.part))
            for path in footer["side_files"].values():
                output.store.delete(output.at(path))
        commit.void(output, unit, schema)
    for unit in list(plan.dropped.values()):
        if commit.void(output, unit, schema).footer.get("void"):
            continue
        # Another run has committed it meanwhile: then it holds, and its heirs do not.
        mine = {span.source.id for span in unit.spans}
        heirs = [u for u in plan.units.values() if mine & {s.source.id for s in u.spans}]
        entry = Entry(
            [s.source for s in unit.spans], [unit.spans], dropped=[heir.id for heir in heirs]
        )
        _append(plan, entry, *(heir.id for heir in heirs))


def _append(plan: PlanLog, entry: Entry, *while_in_force: str) -> None:
    """Appends an entry that drops units, unless another run has dropped them first."""
    while all(id_ in plan.units for id_ in while_in_force):
        if plan.append(entry)[0]:
            return
