"""Alarms: what is wrong with a run that succeeded, by its figures and those of the run before."""

from collections import Counter
from typing import Any

from bertbatch.job import Alarms
from bertbatch.stages import Counts

ENOUGH_ROWS = 100  # of which a share says something


def raised(
    alarms: Alarms,
    counts: Counts,
    rows_in_input: int,
    before: list[dict[str, Any]],
    same: list[dict[str, Any]],
) -> list[str]:
    """What to say of each alarm that goes off.

    `before` are records of runs of other dates, oldest first; `same` of earlier tries of this one,
    whose labels count with this run's.
    """
    found = []
    if alarms.empty_input and not rows_in_input:
        found.append("the input has no rows")
    if alarms.nothing_new and not counts.rows:
        found.append("nothing was new")
    if alarms.quarantined is not None and counts.rows:
        share = counts.rows_quarantined / counts.rows
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
        then = shares_before(before)
        now = label_shares(labels, rows)
        for label in sorted(then.keys() | now.keys()) if then else []:
            old, new = then.get(label, 0.0), now.get(label, 0.0)
            if abs(new - old) > alarms.label_share:
                found.append(f"{label} moved from {old:.1%} of the rows to {new:.1%}")
    return found


def label_shares(labels: dict[str, int], rows_scored: int) -> dict[str, float]:
    """Each label's share of the scored rows; a row of a multi-label model may have several."""
    return {label: count / rows_scored for label, count in labels.items()} if rows_scored else {}


def shares_before(before: list[dict[str, Any]]) -> dict[str, float]:
    """The label shares of the last run that scored enough rows."""
    for record in reversed(before):
        run = record["this_run"]
        if run["rows_scored"] >= ENOUGH_ROWS:
            return label_shares(run["labels"], run["rows_scored"])
    return {}
