"""How a job stands, read from its output alone: no cluster or model is asked."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bertbatch.output.folder import Output, failed_in
from bertbatch.output.lease import LEASE_TTL_SECONDS, Holder, holder
from bertbatch.plan.log import stored_plan
from bertbatch.plan.standing import Standing, standing
from bertbatch.units import Unit

FAILED = 3  # the exit code of a run that did not score all, or too little
OPENED = 1000  # parts at most, since each takes a request to the store


@dataclass
class Status:
    """How far an output is, who is at work on it, and what its last runs did.

    `silent`: seconds since the holder of the lease was last heard of.
    """

    output: Output
    standing: Standing
    holder: Holder | None
    silent: float
    units_done: int
    units_planned: int
    rows_done: int
    rows_planned: int
    quarantined: int
    left_out: int | None  # by `input.where`; None if too many parts would have to be opened
    quarantined_rows: Iterator[tuple[str, int, str]]  # source, row and reason of each
    runs: list[dict[str, Any]]

    @property
    def _at_work(self) -> bool:
        return self.holder is not None and self.silent < LEASE_TTL_SECONDS

    @property
    def state(self) -> str:
        if self._at_work:
            return "running"
        if self.standing.damaged:
            return "damaged"
        if self.standing.complete:
            return "complete"
        done = not self.standing.missing and self.runs and self.runs[-1]["exit_code"] == FAILED
        return "failed" if self.failed_sources or done else "stopped"

    @property
    def advice(self) -> str:
        """What the last run said of its end and of what to do; unless another is at work."""
        if self.standing.damaged:
            return f"it {self.standing.lack}; the same command scores them again"
        return self.runs[-1].get("advice", "") if self.runs and not self._at_work else ""

    @property
    def failed_sources(self) -> dict[str, str]:
        """What the last run could not score, with the reasons; unless another is at work."""
        return failed_in(self.runs[-1]) if self.runs and not self._at_work else {}

    @property
    def share_done(self) -> float:
        """The share of the planned rows that is committed; 1 if none is planned."""
        return self.rows_done / self.rows_planned if self.rows_planned else 1.0

    @property
    def rows_per_second(self) -> float | None:
        """Of the run at work; None if none is, or it has committed nothing yet."""
        if self.holder is None or not self._at_work:
            return None
        seconds = self.holder.progress.get("seconds")
        return self.holder.progress.get("rows", 0) / seconds if seconds else None

    @property
    def seconds_left(self) -> float | None:
        """Until the run at work is done, at the rate so far."""
        rate = self.rows_per_second
        return (self.rows_planned - self.rows_done) / rate if rate else None


def read_status(output: Output, last_runs: int) -> Status:
    """Raises JobError if there is no output of bertbatch's at the path."""
    contract = output.existing_contract()
    plan = stored_plan(output, contract)
    committed = output.committed()
    done = [unit for unit in plan.units.values() if unit.id in committed]
    at_work, runs = holder(output), output.runs(last_runs)
    where = contract.get("input", {}).get("where")
    return Status(
        output=output,
        standing=standing(output, plan, committed),
        holder=None if at_work is None or at_work.gone else at_work,
        silent=_silent(output) if at_work else 0.0,
        units_done=len(done),
        units_planned=len(plan.units),
        rows_done=sum(unit.new_rows for unit in done),
        rows_planned=sum(unit.new_rows for unit in plan.units.values()),
        quarantined=output.quarantined(done),
        left_out=_left_out(output, done, runs[-1] if runs else {}) if where else 0,
        quarantined_rows=output.quarantined_rows(done),
        runs=runs,
    )


def _left_out(output: Output, done: Sequence[Unit], last: dict[str, Any]) -> int | None:
    """Rows that were left out: by the last run's record, if nothing was committed since."""
    if (last.get("units"), last.get("rows_in")) == (len(done), sum(u.new_rows for u in done)):
        return last.get("rows_left_out")
    return output.left_out(done) if len(done) <= OPENED else None


def _silent(output: Output) -> float:
    """Seconds since the lease was written, by the clocks of its store and of this machine."""
    try:
        modified = output.store.info(output.at("_bertbatch", "lease.json")).modified
    except OSError:  # released meanwhile
        return LEASE_TTL_SECONDS
    return max(time.time() - modified, 0.0) if modified else 0.0
