"""The table of `bertbatch plan`: sources, units, rows."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bertbatch.checks.estimate import Estimate
from bertbatch.wording import counted

LINES = 40  # sources shown


def show_plan(estimate: Estimate) -> None:
    """What a run would do, source by source."""
    table = Table("source", "units", "rows", "done", "pending", box=None, pad_edge=False)
    for id_, source in list(estimate.sources.items())[:LINES]:
        done, pending = source.rows_done, source.rows_pending
        cells = [f"{n:,}" for n in (source.units, done + pending, done, pending)]
        table.add_row(*map(Text, [id_, *(["failed", source.failed] if source.failed else cells)]))
    console = Console()
    console.print(table, highlight=False, soft_wrap=True)
    if (more := len(estimate.sources) - LINES) > 0:
        console.print(f"… and {counted(more, 'more source')}", highlight=False)
    for reason, count in estimate.left_out.items():
        console.print(f"left out {counted(count, 'file')}: {reason}", highlight=False)
    units = estimate.units_done + estimate.units_pending
    rows = estimate.rows_done + estimate.rows_pending
    console.print(
        f"{counted(len(estimate.sources), 'source')}, {counted(units, 'unit')} "
        f"({estimate.units_done:,} done, {estimate.units_pending:,} pending), "
        f"{counted(rows, 'row')} "
        f"({estimate.rows_done:,} done, {estimate.rows_pending:,} pending)",
        highlight=False,
    )
