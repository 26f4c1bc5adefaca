"""What `bertbatch verify` prints."""

from bertbatch.checks.verify import Verdict
from bertbatch.display.lines import show
from bertbatch.wording import counted, left_out

LINES = 40  # problems shown


def show_verdict(verdict: Verdict) -> None:
    """The account in one line, then each problem, then the verdict."""
    show(
        f"{counted(verdict.parts, 'part')} of {counted(verdict.units, 'planned unit')}; "
        f"{counted(verdict.rows_planned, 'row')} planned, {verdict.rows_scored:,} scored + "
        f"{verdict.rows_quarantined:,} quarantined{left_out(verdict.rows_left_out, ' +')}"
    )
    if verdict.rescored:
        show(f"{counted(verdict.rescored, 'row')} scored again")
    if verdict.same_bits:
        same, rows = verdict.same_bits
        show(
            f"one unit scored again as it was: {same:,} of {counted(rows, 'row')} equal bit for bit"
        )
    for kind in verdict.other_kinds:
        show(f"not compared bit for bit: rows were scored on {kind}, which is not here")
    if verdict.cleaned:
        show(f"{counted(verdict.cleaned, 'orphaned file')} deleted")
    if verdict.orphans:
        show(
            f"{counted(len(verdict.orphans), 'orphaned file')}: no part names them, and readers "
            "ignore them; --clean deletes them"
        )
    if verdict.pending:
        show(f"{counted(verdict.pending, 'planned unit')} not scored yet: run the job again")
    for source, reason in list(verdict.failed_sources.items())[:LINES]:
        show(f"not scored by the last run: {source}: {reason}")
    if (more := len(verdict.failed_sources) - LINES) > 0:
        show(f"… and {counted(more, 'more source')} not scored")
    for problem in verdict.problems[:LINES]:
        show(f"problem: {problem}")
    if (more := len(verdict.problems) - LINES) > 0:
        show(f"… and {counted(more, 'more problem')}")
    show("OK" if verdict.right else counted(len(verdict.problems), "problem"))
