"""Changes to a stored plan, safe against crashes: withdrawn units, rows scored again.

Each change is first an entry of the plan. Then each unit that it withdraws gets a tombstone, a
part without rows, so that another run that still has the unit in its plan cannot commit it. No run
starts what replaces the unit before that, so that no row is ever in two parts. After a crash
between the two, the run that reads the entry next writes the tombstones.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from bertbatch.output import commit
from bertbatch.output.folder import Output
from bertbatch.output.part import is_tombstone
from bertbatch.plan.log import ENTRY_SOURCES, Entry, PlanLog
from bertbatch.units import RetryRows, Source, Span, Unit


@dataclass(frozen=True)
class Revisions:
    """How one run changes the plan of its output. `schema` is that of the parts."""

    plan: PlanLog
    output: Output
    schema: pa.Schema

    def replace_unit(self, unit: Unit, rest: Sequence[Span]) -> list[Unit]:
        """Withdraws a unit of several sources, and plans some of its sources again.

        Returns the units to run, with those that other runs have planned meanwhile; none if the
        unit has been committed after all.
        """

        def entry() -> Entry | None:
            if unit.id not in self.plan.units or self._has_rows(unit):
                return None
            return Entry([span.source for span in rest], [tuple(rest)], [unit.id])

        return self._change(entry)

    def withdraw(self, sources: set[str]) -> None:
        """Withdraws all units of these sources; the sources count as never planned.

        Parts that had been committed of them lose their rows: only for sources that were broken.
        """

        def entry() -> Entry | None:
            units = [
                u
                for u in self.plan.units.values()
                if not u.retry and any(s.source.id in sources for s in u.spans)
            ]
            rest = [tuple(s for s in u.spans if s.source.id not in sources) for u in units]
            good = [spans for spans in rest if spans]
            named = [span.source for spans in good for span in spans]
            return Entry(named, good, [unit.id for unit in units]) if units else None

        self._change(entry)

    def plan_retry(self, listed: Mapping[str, Source]) -> list[Unit]:
        """Plans to score the rows in quarantine once more, where their source is as planned.

        Returns the units that were added.

        Not those that another run puts into quarantine meanwhile by scoring them again: two such
        runs would never end.
        """
        known = set(self.plan.units)

        def entry() -> Entry | None:
            found = (rows for rows in self.retryable_rows(listed) if rows.unit in known)
            retries = list(islice(found, ENTRY_SOURCES))
            return Entry([], [], retries=retries) if retries else None

        added: list[Unit] = []
        while more := self._change(entry):
            added += more
        return added

    def retryable_rows(self, listed: Mapping[str, Source]) -> Iterator[RetryRows]:
        """Rows in quarantine that no other unit scores again, of sources that are as planned."""
        taken = {unit.retry.unit for unit in self.plan.units.values() if unit.retry}
        candidates = self.output.quarantine_files() - taken
        for unit in list(self.plan.units.values()):
            footer = self.output.footer(unit.part) if unit.id in candidates else None
            path = footer and footer["side_files"].get("quarantine")
            if not path:
                continue
            try:
                bad = self.output.side(path)
            except FileNotFoundError:
                if self._has_rows(unit):
                    raise
                continue  # another run has withdrawn the unit meanwhile
            there = {s.source.id for s in unit.spans if listed.get(s.source.id) == s.source}
            places = zip(bad["source"].to_pylist(), bad["row"].to_pylist(), strict=True)
            rows = tuple(sorted(place for place in places if place[0] in there))
            if rows:
                yield RetryRows(unit.id, rows)

    def write_tombstones(self) -> None:
        """Makes sure that no withdrawn unit has, or can get, a part with rows."""
        for unit in list(self.plan.need_tombstones.values()):
            commit.write_tombstone(self.output, unit, self.schema)
            del self.plan.need_tombstones[unit.id]

    def write_success_if_complete(self, judge: Callable[[], dict[str, Any] | None]) -> None:
        """Writes `_SUCCESS.json` if `judge` gives its record, for the plan as it is at the end.

        A run that appends to the plan clears `_SUCCESS.json` after that, and here the plan is read
        again after writing: of two concurrent runs, one sees what the other has done.
        """
        while True:
            self.plan.refresh()
            self.write_tombstones()
            size = self.plan.size
            record = judge()
            if record is None:
                return
            self.output.write_success(record)
            self.plan.refresh()
            if self.plan.size == size:
                return
            self.output.clear_success()

    def _change(self, make: Callable[[], Entry | None]) -> list[Unit]:
        """Appends an entry, made anew whenever another run's was first, and its tombstones."""
        added: list[Unit] = []
        while entry := make():
            ours, units = self.plan.append(entry)
            added += units
            if ours:
                self.output.clear_success()
                break
        self.write_tombstones()
        return [unit for unit in added if unit.id in self.plan.units]

    def _has_rows(self, unit: Unit) -> bool:
        footer = self.output.footer(unit.part)
        return footer is not None and not is_tombstone(footer)
