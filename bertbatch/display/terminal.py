"""What a person sees of a run: a progress display, log lines or JSON lines, and a summary.

Progress and log go to stderr, the summary to stdout.
"""

import json
import logging
import sys
import time
from collections import Counter
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.prompt import Confirm
from rich.table import Table
from rich.text import Text

from bertbatch.checks.status import Status
from bertbatch.checks.verify import Verdict
from bertbatch.runtime.alarms import label_shares
from bertbatch.runtime.preflight import Survey
from bertbatch.runtime.result import Result, Totals, Watcher
from bertbatch.runtime.source_changes import Changes
from bertbatch.units import Unit

LINE_SECONDS = 10.0
PLAN_LINES = 40
RUN_COLUMNS = (
    *("date", "began", "exit", "rows", "rows/s", "quarantined", "truncated", "labels", "alarms"),
)


def make_watcher(style: str) -> Watcher:
    """The watcher for this terminal; also sends the log its way."""
    console = Console(stderr=True)
    if style == "json":
        return JsonLines()
    if style == "plain" or not console.is_terminal or not console.encoding.startswith("utf"):
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        _log_to(handler)
        return PlainLines()
    _log_to(RichHandler(console=console, show_path=False, markup=False))
    return Display(console)


def _log_to(handler: logging.Handler) -> None:
    logger = logging.getLogger("bertbatch")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _Rates(Watcher):
    """Rates over the run so far, for every way of showing them."""

    def started(self, totals: Totals, workers: int, kinds: dict[str, dict[str, Any]]) -> None:
        self._began = time.monotonic()
        for kind, choice in kinds.items():
            logging.getLogger("bertbatch").info(
                "model ready: %s on %s, %d tokens a batch; %d worker%s (%s)",
                *(f"{choice['engine']} {choice['dtype']}", choice["device"]),
                *(choice["tokens_per_batch"], workers, "" if workers == 1 else "s", kind),
            )

    def figures(self, totals: Totals) -> dict[str, Any]:
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = totals.rows / seconds
        left = totals.rows_planned - totals.rows_before - totals.rows
        return {
            "units": totals.units_before + totals.units,
            "units_planned": totals.units_planned,
            "rows": totals.rows_before + totals.rows,
            "rows_planned": totals.rows_planned,
            "rows_per_second": round(rate, 1),
            "tokens_per_second": round(totals.tokens / seconds),
            "quarantined": totals.rows_quarantined,
            "eta_seconds": round(left / rate) if rate else None,
        }


class JsonLines(_Rates):
    """Everything as JSON lines, with run, unit and source where there is one."""

    def __init__(self) -> None:
        self._run = ""
        handler = logging.Handler()
        handler.emit = self._log  # type: ignore[method-assign]
        _log_to(handler)

    def began(self, run: str) -> None:
        self._run = run

    def progressed(self, totals: Totals, unit: Unit | None = None) -> None:
        where = {"unit": unit.id, "source": unit.spans[0].source.id} if unit else {}
        self._line("progress", {**where, **self.figures(totals)})

    def finished(self, result: Result) -> None:
        ended = {"exit_code": result.exit_code, "alarms": result.alarms, **result.totals}
        self._line("finished", ended)

    def _log(self, record: logging.LogRecord) -> None:
        where = {key: getattr(record, key) for key in ("unit", "source") if hasattr(record, key)}
        said = {"level": record.levelname.lower(), "message": record.getMessage()}
        self._line("log", {**said, **where})

    def _line(self, event: str, content: dict[str, Any]) -> None:
        line = {"event": event, "time": round(time.time(), 3), "run": self._run, **content}
        print(json.dumps(line, ensure_ascii=False), file=sys.stderr, flush=True)


class PlainLines(_Rates):
    _last = 0.0

    def progressed(self, totals: Totals, unit: Unit | None = None) -> None:
        f = self.figures(totals)
        if time.monotonic() - self._last < LINE_SECONDS and f["rows"] < f["rows_planned"]:
            return
        self._last = time.monotonic()
        logging.getLogger("bertbatch").info("%s", _line(f))

    def finished(self, result: Result) -> None:
        show_summary(result)


class Display(_Rates):
    def __init__(self, console: Console):
        self._progress = Progress(
            SpinnerColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task("starting", total=None)
        self._progress.start()

    def started(self, totals: Totals, workers: int, kinds: dict[str, dict[str, Any]]) -> None:
        super().started(totals, workers, kinds)
        self.progressed(totals)

    def progressed(self, totals: Totals, unit: Unit | None = None) -> None:
        f = self.figures(totals)
        self._progress.update(
            self._task, total=f["rows_planned"], completed=f["rows"], description=_line(f)
        )

    def finished(self, result: Result) -> None:
        self.close()
        show_summary(result)

    def close(self) -> None:
        self._progress.stop()


def _line(f: dict[str, Any]) -> str:
    eta = f", {f['eta_seconds']} s left" if f["eta_seconds"] else ""
    return (
        f"{f['units']:,}/{f['units_planned']:,} units, {f['rows']:,}/{f['rows_planned']:,} rows, "
        f"{f['rows_per_second']:,} rows/s, {f['tokens_per_second']:,} tokens/s, "
        f"{f['quarantined']:,} quarantined{eta}"
    )


def ask_to_stop() -> bool:
    """Whether the person who pressed Ctrl-C wants the job on the cluster stopped, too."""
    if not sys.stdin.isatty():
        return False
    try:
        return Confirm.ask("Stop the job on the cluster, too?", default=False)
    except (KeyboardInterrupt, EOFError):
        return False


def show_summary(result: Result) -> None:
    """The short account at the end of a run."""
    totals, run = result.totals, result.run
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()

    def row(name: str, text: str) -> None:
        # As Text, so that brackets in a path or a reason are no markup.
        style = "red" if name in ("failed", "alarm") else ""
        table.add_row(Text(name, style=style), Text(text))

    if run.units_before:
        row("there already", f"{run.units_before:,} units, {run.rows_before:,} rows")
    row(
        "this run",
        f"{run.units:,} units, {run.rows_scored:,} rows scored, "
        f"{run.rows_quarantined:,} quarantined, {run.tokens:,} tokens",
    )
    if not totals["rows_in"] and not run.units_planned:
        row("", "nothing to do: no rows in the input")
    elif not run.units and not result.exit_code:
        row("", "nothing new: every row was there already")
    if run.rows_scored:
        shares = label_shares(run.labels, run.rows_scored)
        for label, count in run.labels.most_common(10):
            row(f"  {label}", f"{count:,} ({100 * shares[label]:.1f} %)")
        row("truncated", f"{run.truncated:,} ({100 * run.truncated / run.rows_scored:.1f} %)")
        if run.computed_tokens:
            padding = 100 * (1 - run.real_tokens / run.computed_tokens)
            row("padding", f"{padding:.1f} % of the computed tokens")
        row(
            "rate",
            f"{totals['rows_per_second']:,} rows/s over {totals['scoring_seconds']:.1f} s; "
            f"{totals['seconds']:.1f} s with start-up",
        )
    for reason, count in run.reasons.most_common(10):
        row("quarantined", f"{count:,}: {reason}")
    for source, reason in list(result.failed_sources.items())[:10]:
        row("failed", f"{source}: {reason}")
    for unit, reason in list(result.failed_units.items())[:10]:
        if not any(reason.startswith(source) for source in result.failed_sources):
            row("failed", f"unit {unit}: {reason}")
    for what in result.alarms:
        row("alarm", what)
    rows, planned = f"{totals['rows_in']:,}", max(run.rows_planned, 0)
    if planned > totals["rows_in"]:  # stopped, or something failed
        rows += f" of {planned:,} planned"
    row(
        "the output",
        f"{rows} rows in = {totals['rows_scored']:,} scored + "
        f"{totals['rows_quarantined']:,} quarantined, in {totals['units']:,} units",
    )
    row("", result.output.path)
    console = Console()
    console.print(table, highlight=False, soft_wrap=True)
    if result.advice:
        console.print(result.advice, highlight=False, markup=False, soft_wrap=True)


def show_plan(survey: Survey, changes: Changes) -> None:
    """What a run would do, source by source. Plans in memory only."""
    planner = survey.planner(store_entries=False)
    planner.failed.update(changes.failed)
    for _ in planner.extend(survey.listing.sources):
        pass
    per_source: dict[str, Counter[str]] = {s.id: Counter() for s in survey.listing.sources}
    all_units = Counter[str]()
    for unit in survey.plan.units.values():
        state = "done" if unit.id in survey.committed else "pending"
        all_units[state] += 1
        for span in unit.spans:
            counts = per_source.setdefault(span.source.id, Counter())
            counts["units"] += 1
            counts[f"rows {state}"] += span.cut.rows
    table = Table("source", "units", "rows", "done", "pending", box=None, pad_edge=False)
    for id_, counts in list(per_source.items())[:PLAN_LINES]:
        done, pending = counts["rows done"], counts["rows pending"]
        reason = planner.failed.get(id_)
        cells = [f"{n:,}" for n in (counts["units"], done + pending, done, pending)]
        table.add_row(*map(Text, [id_, *(["failed", reason] if reason else cells)]))
    console = Console()
    console.print(table, highlight=False, soft_wrap=True)
    if len(per_source) > PLAN_LINES:
        console.print(f"… and {len(per_source) - PLAN_LINES:,} more sources", highlight=False)
    for reason, count in survey.listing.left_out.items():
        console.print(f"left out {count:,} files: {reason}", highlight=False)
    rows = sum(counts["rows done"] + counts["rows pending"] for counts in per_source.values())
    done_rows = sum(counts["rows done"] for counts in per_source.values())
    console.print(
        f"{len(per_source):,} sources, {len(survey.plan.units):,} units "
        f"({all_units['done']:,} done, {all_units['pending']:,} pending), {rows:,} rows "
        f"({done_rows:,} done, {rows - done_rows:,} pending)",
        highlight=False,
    )


def show_status(status: Status) -> None:
    """How a job stands, and its last runs."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()

    def row(name: str, text: str) -> None:
        table.add_row(Text(name), Text(text))

    row("state", status.state)
    if at_work := status.holder:
        row("run", f"{at_work.run} on {at_work.host}, heard of {status.silent:.0f} s ago")
    share = 100 * status.rows_done / status.rows_planned if status.rows_planned else 100
    row(
        "done",
        f"{status.units_done:,}/{status.units_planned:,} units, {status.rows_done:,}/"
        f"{status.rows_planned:,} rows ({share:.1f} %), {status.quarantined:,} quarantined",
    )
    if at_work and status.state == "running" and at_work.progress.get("seconds"):
        rate = at_work.progress.get("rows", 0) / at_work.progress["seconds"]
        left = status.rows_planned - status.rows_done
        eta = f", {left / rate:,.0f} s left" if rate else ""
        row("rate", f"{rate:,.1f} rows/s{eta}")
    row("output", status.path)
    console = Console()
    console.print(table, highlight=False, soft_wrap=True)
    if not status.runs:
        return
    runs = Table(box=None, pad_edge=False)
    for name in RUN_COLUMNS:
        runs.add_column(name, no_wrap=True)
    for record in status.runs:
        run = record["this_run"]
        rows = run["rows_scored"] + run["rows_quarantined"]
        shares = label_shares(run["labels"], run["rows_scored"])
        largest = sorted(shares.items(), key=lambda item: -item[1])[:3]
        alarms = "; ".join(record.get("alarms", []))
        cells = (
            *(
                record.get("date", ""),
                record.get("began", "")[11:19],
                str(record["exit_code"]),
                f"{rows:,}",
            ),
            f"{record['rows_per_second']:,.1f}",
            f"{run['rows_quarantined'] / rows:.2%}" if rows else "",
            f"{run['truncated'] / run['rows_scored']:.1%}" if run["rows_scored"] else "",
            ", ".join(f"{label} {share:.1%}" for label, share in largest),
            alarms,
        )
        runs.add_row(*map(Text, cells))
    console.print()
    console.width = 1000  # a line that a terminal wraps is better than one with holes
    console.print(runs, highlight=False)


def show_verdict(verdict: Verdict) -> None:
    """What `verify` found: the account in one line, then what is wrong."""
    console = Console()

    def say(text: str) -> None:
        console.print(Text(text), highlight=False, soft_wrap=True)

    say(
        f"{verdict.parts:,} parts of {verdict.units:,} planned units, {verdict.rows_planned:,} "
        f"rows planned, {verdict.rows_scored:,} scored + {verdict.rows_quarantined:,} quarantined"
    )
    if verdict.rescored:
        say(f"{verdict.rescored:,} rows scored again")
    if verdict.cleaned:
        say(f"{verdict.cleaned:,} files that nobody named were deleted")
    if verdict.orphans:
        say(f"{len(verdict.orphans):,} files that no part names; they do no harm (--clean)")
    for problem in verdict.problems[:PLAN_LINES]:
        say(f"wrong: {problem}")
    if len(verdict.problems) > PLAN_LINES:
        say(f"… and {len(verdict.problems) - PLAN_LINES:,} more")
    say("all is right" if verdict.right else f"{len(verdict.problems):,} problems")
