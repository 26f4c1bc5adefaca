"""Alarms: what is wrong with a run that succeeded, compared with earlier runs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from bertbatch.errors import Alarm, EmptyInput, JobError
from bertbatch.job.schema import Alarms, Job
from bertbatch.output.folder import Output
from bertbatch.runtime.counts import ENOUGH_ROWS, Counts, label_shares
from bertbatch.runtime.nights import Night
from bertbatch.runtime.preflight import LOOKED_BACK, Preflight
from bertbatch.runtime.result import Totals

log = logging.getLogger("bertbatch")

NIGHT = ("rows_scored", "rows_quarantined", "labels")  # what a record says of it


@contextmanager
def empty_as_alarm(job: Job) -> Iterator[None]:
    """An empty input is an alarm if the job says so."""
    try:
        yield
    except EmptyInput as error:
        raise Alarm(str(error)) if job.alarms.empty_input else error from None


def evaluate(
    preflight: Preflight, before: Output | None, run: Totals
) -> tuple[list[str], dict[str, Any]]:
    """What to say of each alarm of a job that its run sets off, which is also logged.

    Label shares are compared with those of the last run of `before`, or else of the output itself
    on another date. Also returned: what the run's record says of the night.
    """
    alarms = preflight.job.alarms
    if alarms == Alarms():
        return [], {}
    own: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    try:
        own = preflight.output.runs(LOOKED_BACK)
        others = before.runs(LOOKED_BACK) if before else []
    except (OSError, ValueError) as error:
        log.warning("alarms: records of earlier runs cannot be read: %s", error)
    night = Night(preflight, run, own)
    found = _missing_rows(preflight, night, run)
    if (judged := night.judged) is not None and _asked_in(judged) in (None, alarms):
        # The same night again, by hand or by a launcher that tries again: its alarms stand.
        facts = judged.get("night", {})
        found = list(dict.fromkeys([*judged.get("alarms", []), *found]))
    else:
        wanted = alarms.quarantined is not None or alarms.label_share is not None
        all_rows = night.counts if wanted else Counts()
        facts = {name: getattr(all_rows, name) for name in NIGHT} if wanted else {}
        found += _quarantined(alarms, all_rows)
        if not before:
            found += _moved(alarms, all_rows, night.before)
        elif alarms.label_share is not None and _is_output(before, others):
            found += _moved(alarms, all_rows, others)
    for what in found:
        log.warning("alarm: %s", what)
    return found, facts


def _asked_in(record: dict[str, Any]) -> Alarms | None:
    """The settings that a run was judged by; None if an early version wrote its record."""
    if "job" not in record:
        return None
    try:
        return Alarms.model_validate(record["job"].get("alarms", {}))
    except ValidationError:  # of another version
        return Alarms()


def _is_output(before: Output, runs: list[dict[str, Any]]) -> bool:
    """Whether there is an output to compare with; tells if there is none."""
    try:
        there = bool(runs) or before.contract() is not None
    except JobError:  # of files that are not bertbatch's
        there = False
    if not there:
        log.warning(
            "alarms.against %s: there is no output there, so that there is nothing to compare with",
            before.url,
        )
    return there


def _missing_rows(preflight: Preflight, night: Night, run: Totals) -> list[str]:
    found = []
    if preflight.job.alarms.empty_input and not run.rows_selected:
        there = [
            unit
            for unit in preflight.plan.units.values()
            if unit.new_rows and any(span.source.id in preflight.listed for span in unit.spans)
        ]
        if not there:
            found.append("the input has no rows")
        elif not any(map(preflight.has_selected_rows, there)):
            found.append("input.where leaves out every row of the input")
    if preflight.job.alarms.nothing_new and not night.has_new_rows:
        all_out = "input.where leaves out every new row"
        found.append(all_out if night.is_planned else "nothing was new")
    return found


def _quarantined(alarms: Alarms, night: Counts) -> list[str]:
    share = night.rows_quarantined / night.rows_selected if night.rows_selected else 0.0
    if alarms.quarantined is None or share <= alarms.quarantined:
        return []
    return [f"{share:.1%} of the rows went to quarantine, more than {alarms.quarantined:g}"]


def _moved(alarms: Alarms, night: Counts, before: list[dict[str, Any]]) -> list[str]:
    if alarms.label_share is None or night.rows_scored < ENOUGH_ROWS:
        return []
    then = _last_with_enough(before)
    if then is None:
        log.warning(
            "alarms.label_share: no earlier run scored %d rows, so that there is nothing to "
            "compare with",
            ENOUGH_ROWS,
        )
        return []
    when, rows, labels = then
    were, are = label_shares(labels, rows), label_shares(night.labels, night.rows_scored)
    found = []
    for label in sorted(were.keys() | are.keys()):
        old, new = were.get(label, 0.0), are.get(label, 0.0)
        if abs(new - old) > alarms.label_share:
            found.append(
                f"{label} moved from {old:.1%} of {rows:,} rows{when and f' on {when}'} to "
                f"{new:.1%} of {night.rows_scored:,} rows"
            )
    return found


def _last_with_enough(before: list[dict[str, Any]]) -> tuple[str, int, dict[str, int]] | None:
    """The date of the last night that scored enough rows, how many, and their labels."""
    for record in reversed(before):
        night = record.get("night", record["this_run"])
        if night["rows_scored"] >= ENOUGH_ROWS and night["labels"]:
            return record.get("date", ""), night["rows_scored"], night["labels"]
    return None
