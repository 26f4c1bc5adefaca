"""What alarms judge: the rows of a night, in however many runs they were scored.

A run that was judged had committed all that was planned. So the rows of a night are those of units
that were planned since the last judged run of another date, also if the run that scored them was
stopped, or killed before it wrote a record.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from bertbatch.runtime.counts import Counts, counts_in
from bertbatch.runtime.preflight import Preflight
from bertbatch.units import Unit

JUDGED = (0, 4)  # exit codes of runs whose alarms were evaluated
LOOKED_BACK = 100  # runs, for one of another night


class Night:
    """The rows of the date that a job is run for. `counts` are those of the run that judges.

    `before`: the records of earlier nights that were judged. Raises OSError from its properties if
    a part cannot be read.
    """

    def __init__(self, preflight: Preflight, counts: Counts, own: Sequence[dict[str, Any]]):
        """`own`: the records of the output's last runs, the oldest first."""
        self._preflight = preflight
        self._counts = counts
        today = str(preflight.job.date)
        self.before = [r for r in own if r.get("date") != today and r["exit_code"] in JUDGED]
        self._same = [r for r in own if r.get("date") == today]
        oldest = own[:1] if len(own) == LOOKED_BACK else []
        self._since = next((r.get("entries") for r in (*self.before[::-1], *oldest)), 0)

    @property
    def judged(self) -> dict[str, Any] | None:
        """The record of the run that was judged for all that there is, if one was."""
        if self._counts.rows or not self._same or self._same[-1]["exit_code"] not in JUDGED:
            return None
        last, size = self._same[-1], self._preflight.plan.size
        return last if last.get("entries", size) == size else None

    @property
    def has_new_rows(self) -> bool:
        """Whether this run or an earlier one had rows that were new."""
        runs = (run["this_run"]["rows_scored"] for run in self._same)
        return bool(self._counts.rows) or any(runs) or any(u.new_rows for u in self._earlier)

    @cached_property
    def counts(self) -> Counts:
        """What is counted of all its rows; of earlier ones, from the footers of their parts."""
        night = Counts()
        night.add(self._counts)
        with ThreadPoolExecutor(16) as pool:
            parts = [unit.part for unit in self._earlier]
            for footer in pool.map(self._preflight.output.footer, parts):
                if footer is not None:
                    night.add(counts_in(footer))
        units = self._units
        for unit in units.values():
            scored = unit.id in self._preflight.committed or self._preflight.as_planned(unit)
            if unit.retry and unit.retry.unit in units and scored:
                night.rows_quarantined -= unit.rows  # there they are counted, too
        return night

    @cached_property
    def _units(self) -> dict[str, Unit]:
        """What was planned; nothing if an early version wrote the record before."""
        plan, since = self._preflight.plan, self._since
        if since is None:
            return {}
        return {id_: unit for id_, unit in plan.units.items() if plan.entry_of[id_] >= since}

    @property
    def _earlier(self) -> list[Unit]:
        """The units that were committed before this run."""
        return [u for id_, u in self._units.items() if id_ in self._preflight.committed]
