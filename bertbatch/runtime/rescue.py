"""Good sources of units that failed because of a bad one."""

from bertbatch.runtime.failures import Outcome
from bertbatch.runtime.preflight import Preflight
from bertbatch.units import Unit


def rescue(preflight: Preflight, outcome: Outcome) -> tuple[list[Unit], list[Unit]]:
    """Plans the good sources again, and takes the units out of the failed ones.

    Returns the units that were added and those that were withdrawn.
    """
    added: list[Unit] = []
    withdrawn: list[Unit] = []
    for id_ in list(outcome.failed_units):
        unit = preflight.plan.units.get(id_)
        if unit is None or unit.retry or len(unit.spans) == 1:
            continue
        rest = [s for s in unit.spans if s.source.id not in outcome.failed_sources]
        if rest and len(rest) < len(unit.spans):
            added += preflight.revisions.replace_unit(unit, rest)
            del outcome.failed_units[id_]
            if id_ not in preflight.plan.units:
                withdrawn.append(unit)
    return added, withdrawn
