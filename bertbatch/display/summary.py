"""The summary at the end of a run."""

from bertbatch.display.facts import Facts
from bertbatch.display.lines import show
from bertbatch.display.quarantine import name_row, tell_of_all
from bertbatch.runtime.result import Result
from bertbatch.wording import counted, left_out

LINES = 10  # labels, reasons, failures shown


def show_summary(result: Result) -> None:
    """What this run did, what failed, and what the output holds now."""
    totals, run = result.totals, result.run
    facts = Facts()
    row = facts.add
    if run.units_before:
        row(
            "done before", f"{counted(run.units_before, 'unit')}, {counted(run.rows_before, 'row')}"
        )
    row(
        "this run",
        f"{counted(run.units, 'unit')}, {counted(run.rows_scored, 'row')} scored, "
        f"{run.rows_quarantined:,} quarantined{left_out(run.rows_left_out)}, "
        f"{counted(run.tokens, 'token')}",
    )
    if not totals["rows_in"] and not run.units_planned and not result.exit_code:
        row("", "nothing to do: the input has no rows")
    elif not run.units and not result.exit_code:
        row("", "nothing new: every row had been scored before")
    if run.rows_scored:
        shares = run.label_shares
        for label, count in run.labels.most_common(LINES):
            row(f"  {label}", f"{count:,} ({shares[label]:.1%})")
        for what, counts in (("no label", run.unlabelled), ("truncated", run.truncated)):
            for model, count in counts.items():
                if count or what == "truncated":
                    share = f"{count:,} ({count / run.rows_scored:.1%})"
                    row(what, f"{share} for {model}" if model else share)
        if run.rows_repeated:
            row(
                "repeated",
                f"{counted(run.rows_repeated, 'row')} with the answers of texts that were scored "
                f"once; {counted(run.texts_once, 'such text')} scored in this run",
            )
        if run.computed_tokens:
            row("padding", f"{run.padding:.1%} of the computed tokens")
        row(
            "rate",
            f"{totals['rows_per_second']:,} rows/s over {totals['scoring_seconds']:.1f} s; "
            f"{totals['seconds']:.1f} s with start-up",
        )
    for reason, count in run.reasons.most_common(LINES):
        row("quarantined", f"{count:,}: {reason}")
    for place in run.quarantined:
        row("", name_row(*place))
    for source, reason in list(result.failed_sources.items())[:LINES]:
        row("failed", f"{source}: {reason}")
    for unit, reason in list(result.failed_units.items())[:LINES]:
        if not any(reason.startswith(source) for source in result.failed_sources):
            row("failed", f"unit {unit}: {reason}")
    for alarm in result.alarms:
        row("alarm", alarm)
    rows, planned = counted(totals["rows_in"], "row"), max(run.rows_planned, 0)
    if planned > totals["rows_in"]:  # stopped, or something failed
        rows = f"{totals['rows_in']:,} of {counted(planned, 'planned row')}"
    row(
        "output",
        f"{rows} in = {totals['rows_scored']:,} scored + "
        f"{totals['rows_quarantined']:,} quarantined{left_out(totals['rows_left_out'], ' +')}, "
        f"in {counted(totals['units'], 'unit')}",
    )
    row("", result.output.path)
    show(facts)
    if run.rows_quarantined > len(run.quarantined):
        tell_of_all(result.output)
    if result.advice:
        show(result.advice)
