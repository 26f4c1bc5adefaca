"""What alarms judge: the rows of a night, in however many runs they were scored.

A run that was judged had committed all that was planned. So the rows of a night are the new ones
that were planned since the last judged run of another date, also if the run that scored them was
stopped, or killed before it wrote a record. Rows that are scored again belong to the night that
they were new in, whichever date scores them again.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from bertbatch.runtime.counts import Counts, counts_in
from bertbatch.runtime.preflight import LOOKED_BACK, Preflight
from bertbatch.runtime.result import Totals
from bertbatch.units import Unit

JUDGED = (0, 4)  # exit codes of runs whose alarms were evaluated


class Night:
    """The rows of the date that a job is run for. `run` is the one that judges.

    `before`: the records of nights that were judged before this one. Raises OSError from its
    properties if a part cannot be read.
    """

    def __init__(self, preflight: Preflight, run: Totals, own: Sequence[dict[str, Any]]):
        """`own`: the records of the output's last runs, the oldest first."""
        self._preflight = preflight
        self._run = run
        today = str(preflight.job.date)
        self._same = [r for r in own if r.get("date") == today]
        first = own.index(self._same[0]) if self._same else len(own)
        self.before = [r for r in own[:first] if r["exit_code"] in JUDGED]
        self._entries = _entries(own, today, preflight.plan.size)

    @property
    def judged(self) -> dict[str, Any] | None:
        """The record of the run that was judged for all that there is, if one was."""
        if self._run.rows or not self._same or self._same[-1]["exit_code"] not in JUDGED:
            return None
        last, size = self._same[-1], self._preflight.plan.size
        return last if last.get("entries", size) == size else None

    @property
    def has_new_rows(self) -> bool:
        """Whether it has rows, scorable or not; those that `input.where` leaves out are none."""
        runs = [record["this_run"] for record in self._same]
        return (
            bool(self._run.new.rows_selected)
            or any(r["rows_scored"] + r["rows_quarantined"] > r.get("rows_again", 0) for r in runs)
            or any(u.new_rows and self._preflight.has_selected_rows(u) for u in self._earlier)
        )

    @property
    def is_planned(self) -> bool:
        """Whether rows were planned for it, also if `input.where` leaves them out."""
        return any(unit.new_rows for unit in self._units.values())

    @cached_property
    def counts(self) -> Counts:
        """What is counted of all its rows; of earlier ones, from the footers of their parts.

        Also of rows that were scored again, at any date: those that it has had in quarantine.
        """
        night = Counts()
        night.add(self._run.new)
        units = [*self._earlier, *self._again]
        with ThreadPoolExecutor(16) as pool:
            footers = pool.map(self._preflight.output.footer, [unit.part for unit in units])
            for unit, footer in zip(units, footers, strict=True):
                if footer is not None:
                    night.add(counts_in(footer))
                    night.rows_quarantined -= unit.rows if unit.retry else 0
        return night

    @cached_property
    def _units(self) -> dict[str, Unit]:
        """Those of its new rows."""
        plan = self._preflight.plan
        return {
            id_: unit
            for id_, unit in plan.units.items()
            if not unit.retry and plan.entry_of[id_] in self._entries
        }

    @property
    def _earlier(self) -> list[Unit]:
        """The units of its new rows that were committed before this run."""
        return [u for id_, u in self._units.items() if id_ in self._preflight.committed]

    @property
    def _again(self) -> list[Unit]:
        """The units that score some of its rows again."""
        units = self._preflight.plan.units
        found = []
        for unit in units.values():
            first = unit
            while first.retry:
                first = units[first.retry.unit]
            if unit.retry and first.id in self._units:
                found.append(unit)
        return found


def _entries(own: Sequence[dict[str, Any]], today: str, size: int) -> set[int]:
    """Which entries of the plan are of a date: each is of the first run that was judged with it.

    Those that none was judged with are of today. No date is known of those that follow a run of an
    early version, whose record does not say what had been planned.
    """
    since: int | None = own[0].get("entries") if len(own) == LOOKED_BACK else 0
    found: set[int] = set()
    for record in own:
        if record["exit_code"] not in JUDGED:
            continue
        until: int | None = record.get("entries")
        if record.get("date") != today:
            since = until
        elif until is not None:
            if since is not None:
                found.update(range(since, min(until, size)))
            since = until
    return found if since is None else found | set(range(since, size))
