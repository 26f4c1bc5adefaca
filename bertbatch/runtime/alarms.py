"""Alarms: what is wrong with a run that succeeded, compared with earlier runs."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bertbatch.errors import Alarm, EmptyInput
from bertbatch.job.schema import Alarms, Job
from bertbatch.output.folder import Output
from bertbatch.runtime.counts import Counts

log = logging.getLogger("bertbatch")

ENOUGH_ROWS = 100  # of which a share says something
LOOKED_BACK = 100  # runs, for one that scored enough rows to compare with


@contextmanager
def empty_as_alarm(job: Job) -> Iterator[None]:
    """An empty input is an alarm if the job says so."""
    try:
        yield
    except EmptyInput as error:
        raise Alarm(str(error)) if job.alarms.empty_input else error from None


def evaluate(
    job: Job, output: Output, before: Output | None, counts: Counts, empty: bool
) -> list[str]:
    """What to say of each alarm of a job that its run sets off; also logged.

    Label shares are compared with those of the last run of `before`, or else of the output itself
    on another date. `empty` says whether the input has no rows.
    """
    if job.alarms == Alarms():
        return []
    today, own, others = str(job.date), [], []
    try:
        own = output.runs(LOOKED_BACK)
        others = before.runs(LOOKED_BACK) if before else [r for r in own if r.get("date") != today]
    except (OSError, ValueError) as error:
        log.warning("alarms: records of earlier runs cannot be read: %s", error)
    same = [record for record in own if record.get("date") == today]
    found = _found(job.alarms, counts, empty, others, same)
    if not counts.rows and same:
        # The same night again, by hand or by a launcher that tries again: its alarms stand.
        found = list(dict.fromkeys([*same[-1].get("alarms", []), *found]))
    for what in found:
        log.warning("alarm: %s", what)
    return found


def _found(
    alarms: Alarms,
    counts: Counts,
    empty: bool,
    before: list[dict[str, Any]],
    same: list[dict[str, Any]],
) -> list[str]:
    """`before` and `same` are records, oldest first; the labels of `same` count as this run's."""
    found = []
    if alarms.empty_input and empty:
        found.append("the input has no rows")
    if alarms.nothing_new and not counts.rows:
        found.append("nothing was new")
    if alarms.quarantined is not None and counts.rows_selected:
        share = counts.rows_quarantined / counts.rows_selected
        if share > alarms.quarantined:
            found.append(
                f"{share:.1%} of the rows went to quarantine, more than {alarms.quarantined:g}"
            )
    labels = Counter(counts.labels)
    rows = counts.rows_scored
    for record in same if counts.rows else []:
        labels.update(record["this_run"]["labels"])
        rows += record["this_run"]["rows_scored"]
    if alarms.label_share is not None and counts.rows and rows >= ENOUGH_ROWS:
        then = _shares_before(before)
        if not then:
            log.warning(
                "alarms.label_share: no earlier run scored %d rows, so that there is nothing to "
                "compare with",
                ENOUGH_ROWS,
            )
        now = label_shares(labels, rows)
        for label in sorted(then.keys() | now.keys()) if then else []:
            old, new = then.get(label, 0.0), now.get(label, 0.0)
            if abs(new - old) > alarms.label_share:
                found.append(f"{label} moved from {old:.1%} of the rows to {new:.1%}")
    return found


def label_shares(labels: dict[str, int], rows_scored: int) -> dict[str, float]:
    """Each label's share of the scored rows; a row of a multi-label model may have several."""
    return {label: count / rows_scored for label, count in labels.items()} if rows_scored else {}


def _shares_before(before: list[dict[str, Any]]) -> dict[str, float]:
    """The label shares of the last run that scored enough rows."""
    for record in reversed(before):
        run = record["this_run"]
        if run["rows_scored"] >= ENOUGH_ROWS:
            return label_shares(run["labels"], run["rows_scored"])
    return {}
