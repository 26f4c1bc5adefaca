"""The judgement on a run at its end: exit code, advice, the output's totals."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bertbatch.output.contract import scoring_fingerprint
from bertbatch.runtime.counts import ENOUGH_ROWS
from bertbatch.runtime.preflight import Preflight
from bertbatch.runtime.result import Totals
from bertbatch.units import Unit, digest
from bertbatch.wording import counted, duration


@dataclass
class Ending:
    """How the work of a run ended.

    `seconds` is the whole run's time, `scoring_seconds` that from the first read to the last
    commit. `signal` is the number of the signal that stopped it, or 0.
    """

    run: str
    seconds: float
    scoring_seconds: float
    signal: int = 0
    lease_lost: bool = False
    too_many_quarantined: bool = False
    out_of_time: bool = False
    failed_sources: dict[str, str] = field(default_factory=dict)
    failed_units: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """`totals` are the whole output's; `advice` says what to do next, if anything."""

    exit_code: int
    advice: str
    totals: dict[str, Any]


def judge(preflight: Preflight, run: Totals, ending: Ending) -> Judgement:
    """Judges a run by what is committed now, for the plan as it is now.

    Raises RuntimeError if rows are missing or doubled.
    """
    output, units = preflight.output, preflight.plan.units
    committed = output.committed()
    done = [unit for unit in units.values() if unit.id in committed]
    rows_in = sum(unit.new_rows for unit in done)
    quarantined = output.quarantined(done)
    left_out = output.left_out(done) if preflight.job.input.where is not None else 0
    scoring = ending.scoring_seconds
    totals = {
        "rows_in": rows_in,
        "rows_scored": rows_in - quarantined - left_out,
        "rows_quarantined": quarantined,
        "rows_left_out": left_out,
        "units": len(done),
        "tokens": run.tokens,
        "seconds": round(ending.seconds, 3),
        "scoring_seconds": round(scoring, 3),
        "rows_per_second": round(run.rows_selected / scoring, 2) if scoring else 0.0,
        "run": ending.run,
        "plan": digest(sorted(units))[:20],
        "scoring_fingerprint": scoring_fingerprint(preflight.specs),
        "sources": len(preflight.plan.sources),
    }
    _check_accounts(preflight, run, done, quarantined)
    # Rows to score again whose source is gone stay in quarantine.
    missing = any(
        unit.id not in committed and (not unit.retry or preflight.as_planned(unit))
        for unit in units.values()
    )
    code, advice = _code_and_advice(preflight, run, ending, totals, missing)
    return Judgement(code, advice, totals)


def _code_and_advice(
    preflight: Preflight, run: Totals, ending: Ending, totals: dict[str, Any], missing: bool
) -> tuple[int, str]:
    limit = preflight.job.limits.max_quarantined
    rows_in, quarantined = totals["rows_in"] - totals["rows_left_out"], totals["rows_quarantined"]
    share = quarantined / rows_in if rows_in >= ENOUGH_ROWS else 0.0
    if ending.signal:
        return 128 + ending.signal, "run the same command again to resume"
    if ending.lease_lost:
        return 3, "another run took over while this one did not respond, and continues"
    if ending.too_many_quarantined or share > limit:
        return 3, (
            f"{quarantined:,} of {counted(rows_in, 'row')} are in quarantine, more than "
            f"limits.max_quarantined ({limit:g}) allows: see the reasons; raise the limit and run "
            "the same command again, or fix the cause and score into another output.path"
        )
    fresh = preflight.fresh()
    if ending.out_of_time and (missing or fresh):
        what = "run the same command again to continue"
        if not run.rows:
            seconds = duration(ending.seconds)
            what = f"raise it: {seconds} went by before a row was scored, and would again"
        return 3, (
            f"limits.max_hours ({preflight.job.limits.max_hours:g}) is over: "
            f"{_left(preflight, totals, len(fresh))}; {what}"
        )
    if missing or ending.failed_sources or ending.failed_units:
        return 3, "fix what failed and run the same command again; finished units are kept"
    return 0, ""


def _left(preflight: Preflight, totals: dict[str, Any], fresh: int) -> str:
    """What a run that was out of time has left to the next one."""
    planned = sum(unit.new_rows for unit in preflight.plan.units.values())
    left, rate = planned - totals["rows_in"], totals["rows_per_second"]
    said = []
    if left:
        about = f", about {duration(left / rate)} at this rate" if rate else ""
        said.append(f"{left:,} of {counted(planned, 'planned row')} are left{about}")
    if fresh:
        said.append(f"{counted(fresh, 'source')} not planned yet")
    return ", and ".join(said) or "a part of the work is left"


def _check_accounts(
    preflight: Preflight, run: Totals, done: Sequence[Unit], quarantined: int
) -> None:
    """Rows in = rows scored + quarantined + left out, over this run and over the output."""
    if preflight.plan.withdrawn:  # then rows that were counted may have been withdrawn
        return
    rows = sum(unit.new_rows for unit in done)
    new = run.rows - run.rows_again
    if new + run.rows_before > rows:
        raise RuntimeError(
            f"{run.rows_before} rows were done before and {new} in this run, but the parts hold "
            f"{rows}"
        )
    if run.rows_quarantined > quarantined:
        raise RuntimeError(
            f"{run.rows_quarantined} rows went to quarantine in this run, but the parts hold "
            f"{quarantined}"
        )
