"""What `bertbatch status` prints."""

from itertools import islice
from typing import Any

from bertbatch.checks.status import Status
from bertbatch.display.facts import Facts
from bertbatch.display.grid import Grid
from bertbatch.display.lines import show
from bertbatch.display.quarantine import name_row, tell_of_all
from bertbatch.runtime.counts import EXAMPLES, label_shares
from bertbatch.wording import counted, left_out

COLUMNS = ("began (UTC)", "date", "exit", "rows", "rows/s", "quarantined", "truncated", "labels")
FAILED = 10  # sources shown
LABELS = 3  # the most frequent ones of a run


def show_status(status: Status) -> None:
    """How a job stands, and its last runs."""
    facts = Facts()
    row = facts.add
    row("state", status.state)
    if holder := status.holder:
        row("run", f"{holder.run} on {holder.host}, last heartbeat {status.silent:.0f} s ago")
    row(
        "done",
        f"{status.units_done:,}/{counted(status.units_planned, 'unit')}, {status.rows_done:,}/"
        f"{counted(status.rows_planned, 'row')} ({status.share_done:.1%}), "
        f"{status.quarantined:,} quarantined{_left_out(status.left_out)}"
        if status.units_planned
        else ("no rows" if status.standing.complete else "nothing is planned yet"),
    )
    if (rate := status.rows_per_second) is not None:
        left = f", {status.seconds_left:,.0f} s left" if status.seconds_left is not None else ""
        row("rate", f"{rate:,.1f} rows/s{left}")
    first = list(islice(status.quarantined_rows, EXAMPLES)) if status.quarantined else []
    for place in first:
        row("" if place is not first[0] else "quarantined", name_row(*place))
    for source, reason in list(status.failed_sources.items())[:FAILED]:
        row("failed", f"{source}: {reason}")
    if status.advice:
        row("advice", status.advice)
    row("output", status.output.path)
    show(facts)
    if status.quarantined > len(first):
        tell_of_all(status.output)
    if status.runs:
        show("", _runs(status.runs))


def show_quarantined(status: Status) -> None:
    """Every row in quarantine, one a line, with tabs between source, row and reason."""
    for source, number, reason in status.quarantined_rows:
        print(source, number, " ".join(reason.split()), sep="\t")


def _left_out(rows: int | None) -> str:
    if rows is None:
        return ", those left out are counted when the run ends"
    return left_out(rows)


def _runs(records: list[dict[str, Any]]) -> Grid:
    alarmed = any(record.get("alarms") for record in records)
    grid = Grid(*COLUMNS, *(["alarms"] if alarmed else []))
    for record in records:
        run = record["this_run"]
        scored, quarantined = run["rows_scored"], run["rows_quarantined"]
        rows = scored + quarantined
        shares = sorted(label_shares(run["labels"], scored).items(), key=lambda item: -item[1])
        grid.add(
            record.get("began", "")[:16].replace("T", " "),  # to the minute
            record.get("date", ""),
            str(record["exit_code"]),
            f"{rows:,}",
            f"{record['rows_per_second']:,.1f}",
            f"{quarantined / rows:.1%}" if rows else "",
            _shares(run["truncated"], scored) if scored else "",
            ", ".join(f"{label} {share:.1%}" for label, share in shares[:LABELS]),
            *(["; ".join(record.get("alarms", []))] if alarmed else []),
        )
    return grid


def _shares(counts: int | dict[str, int], rows: int) -> str:
    """The share of the rows, for each model if there are several."""
    if isinstance(counts, int):
        return f"{counts / rows:.1%}"
    return ", ".join(f"{model} {count / rows:.1%}" for model, count in counts.items())
