"""Progress of a run: a display, log lines or JSON lines.

Progress and log go to stderr; the summary at the end goes to stdout.
"""

import logging
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from rich.console import Console, ConsoleRenderable
from rich.logging import RichHandler
from rich.prompt import Confirm
from rich.text import Text
from rich.traceback import Traceback

from bertbatch.display.json_lines import json_line
from bertbatch.display.lines import Trimmed
from bertbatch.display.progress_bar import ProgressBar
from bertbatch.display.summary import show_summary
from bertbatch.runtime.result import ProgressListener, Result, Totals
from bertbatch.units import Unit
from bertbatch.wording import TIME_FORMAT, counted, duration

LINE_SECONDS = 10.0
WIDE = 72  # columns of a terminal that leave room for times beside messages


def make_listener(style: str) -> ProgressListener:
    """The progress listener for this terminal; also sends the log there."""
    console = Console(stderr=True)
    if style == "json":
        return JsonLines()
    if style == "plain" or not console.is_terminal or not console.encoding.startswith("utf"):
        _log_to(_plain_handler(sys.stderr))
        return PlainLines(show_summary)
    return Display(console)


def notebook_listener() -> ProgressListener:
    """Plain lines on standard output, where a notebook shows them; the result shows itself."""
    _log_to(_plain_handler(sys.stdout))
    return PlainLines(lambda result: None)


def _plain_handler(stream: Any) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", TIME_FORMAT))
    return handler


def _log_to(handler: logging.Handler) -> None:
    logger = logging.getLogger("bertbatch")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _Rates(ProgressListener):
    """Rates over the run so far, for every way of showing them."""

    def started(self, totals: Totals, workers: int, kinds: dict[str, dict[str, Any]]) -> None:
        self._began = time.monotonic()
        for kind, choice in kinds.items():
            logging.getLogger("bertbatch").info(
                "model ready: %s %s on %s, %s per batch; %s (%s)",
                choice["engine"],
                choice["dtype"],
                choice["device"],
                counted(choice["tokens_per_batch"], "token"),
                counted(workers, "worker"),
                kind,
            )

    def figures(self, totals: Totals) -> dict[str, Any]:
        return totals.progress(time.monotonic() - self._began)


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
        ended = {
            "exit_code": result.exit_code,
            "message": result.advice,
            "alarms": result.alarms,
            "failed_sources": result.failed_sources,
            "failed_units": result.failed_units,
            **result.totals,
        }
        self._line("finished", ended)

    def _log(self, record: logging.LogRecord) -> None:
        if hasattr(record, "phase"):
            self._line("phase", {"phase": record.phase})
            return
        where = {key: getattr(record, key) for key in ("unit", "source") if hasattr(record, key)}
        said = {"level": record.levelname.lower(), "message": record.getMessage()}
        self._line("log", {**said, **where})

    def _line(self, event: str, content: dict[str, Any]) -> None:
        print(json_line(event, content, self._run), file=sys.stderr, flush=True)


class PlainLines(_Rates):
    """A line every ten seconds, and `conclude` at the end."""

    _last = 0.0

    def __init__(self, conclude: Callable[[Result], None]):
        self._conclude = conclude

    def progressed(self, totals: Totals, unit: Unit | None = None) -> None:
        f = self.figures(totals)
        if time.monotonic() - self._last < LINE_SECONDS and f["rows"] < f["rows_planned"]:
            return
        self._last = time.monotonic()
        logging.getLogger("bertbatch").info("%s", _line(f))

    def finished(self, result: Result) -> None:
        self._conclude(result)


class Display(_Rates):
    """A bar that is drawn anew, below the log."""

    def __init__(self, console: Console):
        self._bar = ProgressBar(console)
        wide = console.width >= WIDE
        shown = {"show_time": wide, "show_level": wide, "show_path": False}
        _log_to(_Beside(self._bar, console=console, markup=False, **shown))
        self._bar.phase("checking the job")
        self._bar.start()

    def started(self, totals: Totals, workers: int, kinds: dict[str, dict[str, Any]]) -> None:
        super().started(totals, workers, kinds)
        self._bar.phase("planning")

    def progressed(self, totals: Totals, unit: Unit | None = None) -> None:
        self._bar.show(self.figures(totals))

    def finished(self, result: Result) -> None:
        self.close()
        show_summary(result)

    def close(self) -> None:
        self._bar.stop()


class _Beside(RichHandler):
    """The log beside a bar, which shows phases itself."""

    def __init__(self, bar: ProgressBar, **options: Any):
        super().__init__(log_time_format=_moment, **options)
        self._bar = bar

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "phase"):
            self._bar.phase(record.phase)
        else:
            super().emit(record)

    def render(
        self,
        *,
        record: logging.LogRecord,
        traceback: Traceback | None,
        message_renderable: ConsoleRenderable,
    ) -> ConsoleRenderable:
        found = super().render(
            record=record, traceback=traceback, message_renderable=message_renderable
        )
        return Trimmed(found)


def _moment(moment: datetime) -> Text:
    return Text(f"[{moment.astimezone():{TIME_FORMAT}}]")


def _line(f: dict[str, Any]) -> str:
    eta = f", {duration(f['eta_seconds'])} left" if f["eta_seconds"] else ""
    waits = f", {f['bottleneck']}" if f["bottleneck"] not in ("", "scoring") else ""
    return (
        f"{f['units']:,}/{counted(f['units_planned'], 'unit')}, "
        f"{f['rows']:,}/{counted(f['rows_planned'], 'row')}, "
        f"{f['rows_per_second']:,} rows/s, {f['tokens_per_second']:,} tokens/s, "
        f"{f['quarantined']:,} quarantined{eta}{waits}"
    )


def ask_to_stop() -> bool:
    """Asks whoever pressed Ctrl-C whether to stop the job on the cluster as well."""
    if not sys.stdin.isatty():
        return False
    try:
        return Confirm.ask("Stop the job on the cluster as well?", default=False)
    except (KeyboardInterrupt, EOFError):
        return False
