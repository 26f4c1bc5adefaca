"""What `bertbatch plan` prints."""

from bertbatch.checks.estimate import CHANGED, DONE, NEW, PENDING, REFUSED, REMOVED, Estimate
from bertbatch.checks.forecast import Forecast
from bertbatch.checks.outlook import Outlook
from bertbatch.checks.text_sample import Lengths
from bertbatch.display.facts import Facts
from bertbatch.display.grid import Grid
from bertbatch.display.lines import show
from bertbatch.wording import counted, duration, size

LINES = 20  # sources shown
STATES = (DONE, REMOVED, PENDING, NEW, CHANGED, REFUSED)


def show_plan(outlook: Outlook) -> None:
    """What a run would do, source by source, then in all."""
    planned = outlook.estimate
    show(_sources(planned))
    if (more := len(planned.sources) - LINES) > 0:
        show(f"… and {counted(more, 'more source')}")
    facts = Facts()
    row = facts.add
    states = {state: planned.count(state) for state in STATES}
    said = ", ".join(f"{number:,} {state}" for state, number in states.items() if number)
    row("sources", f"{len(planned.sources):,} ({said or 'none'}), {size(planned.bytes)}")
    for reason, count in planned.left_out.items():
        row("left out", f"{counted(count, 'file')}: {reason}")
    units = planned.units_done + planned.units_pending
    row("units", f"{units:,} ({planned.units_done:,} done, {planned.units_pending:,} pending)")
    rows = planned.rows_done + planned.rows_pending
    chosen = ""
    if outlook.selected is not None:
        chosen = f"; `where` selects {100 * outlook.selected:.3g} % of the sample"
    row("rows", f"{rows:,} ({planned.rows_done:,} done, {planned.rows_pending:,} pending){chosen}")
    for model, one in outlook.lengths.items():
        row(f"tokens{model and f' of {model}'}", _lengths(one, outlook.sampled))
    if outlook.time:
        row("time here", _time(outlook.time))
    elif planned.rows_pending and outlook.lengths:
        row(
            "time here",
            "not known before a run on this output has scored on such a processor; --measure loads "
            "the model",
        )
    if outlook.elsewhere:
        row("elsewhere", _time(outlook.elsewhere))
    for one_thing in outlook.advice:
        row("note", one_thing)
    show(facts)


def _sources(planned: Estimate) -> Grid:
    grid = Grid("source", "size", "units", "rows", "state")
    for id_, source in list(planned.sources.items())[:LINES]:
        rows = source.rows_done + source.rows_pending
        state = f"{source.state}: {source.refused}" if source.refused else source.state
        if source.rows_done and source.rows_pending:
            state += f", {source.rows_done:,} rows done"
        grid.add(id_, size(source.bytes), f"{source.units:,}", f"{rows:,}", state)
    return grid


def _lengths(one: Lengths, sampled: int) -> str:
    windows = f", {one.windows:.1f} sequences a text" if one.windows > 1 else ""
    return (
        f"median {one.median:,.0f}, mean {one.mean:,.0f}, 95 % up to {one.p95:,.0f}, longest "
        f"{one.longest:,}; {one.truncated:.1%} truncated at {one.max_length:,}{windows} "
        f"(of {counted(sampled, 'row')})"
    )


def _time(found: Forecast) -> str:
    least, most = map(duration, found.seconds)
    when = least if least == most else f"{least} to {most}"
    cost = "" if found.cost is None else f", cost {found.cost[0]:,.2f} to {found.cost[1]:,.2f}"
    tokens = f"{sum(found.tokens) / 2:,.0f} tokens at {found.rate:,.0f} tokens/s"
    return f"{when} of scoring, without start-up{cost}: {tokens} ({found.basis})"
