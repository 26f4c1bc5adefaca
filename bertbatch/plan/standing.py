"""Whether an output holds all that its plan asks for."""

from collections.abc import Collection
from dataclasses import dataclass

from bertbatch.output.folder import Output
from bertbatch.plan.log import PlanLog
from bertbatch.wording import counted


@dataclass(frozen=True)
class Standing:
    """`succeeded`: a run ended well. `missing` of the `planned` units have no part."""

    succeeded: bool
    missing: int
    planned: int

    @property
    def complete(self) -> bool:
        return self.succeeded and not self.missing

    @property
    def damaged(self) -> bool:
        """Whether there were parts that are gone."""
        return self.succeeded and self.missing > 0

    @property
    def lack(self) -> str:
        """What follows the output's name in a sentence; empty if it is complete."""
        if self.damaged:
            units = counted(self.planned, "unit")
            return f"has lost the parts of {self.missing:,} of {units} (see bertbatch verify)"
        if self.missing:
            return "is not complete"
        return "" if self.complete else "has no run yet that ended well (see bertbatch status)"


def standing(output: Output, plan: PlanLog, committed: Collection[str]) -> Standing:
    """By the ids of the units that are committed."""
    # Rows to score again whose source is gone stay in quarantine: then there is no part.
    units = [unit for unit in plan.units.values() if not unit.retry]
    missing = sum(unit.id not in committed for unit in units)
    return Standing(output.success() is not None, missing, len(units))
