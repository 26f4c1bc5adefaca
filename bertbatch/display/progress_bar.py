"""One line of progress that fits any terminal: what is worth less is left out first."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from bertbatch.wording import counted, duration

LEAST_BAR = 8  # cells
MOST_BAR = 40


class ProgressBar:
    """Rich's progress with one task: a phase by name, then a bar with figures."""

    def __init__(self, console: Console):
        self._progress = _Fitting(console=console, transient=True)
        self._task = self._progress.add_task("", total=None)

    def start(self) -> None:
        self._progress.start()

    def stop(self) -> None:
        self._progress.stop()

    def phase(self, what: str) -> None:
        """A phase without an end that is known; its seconds are shown."""
        self._progress.update(
            self._task, total=None, phase=what, since=time.monotonic(), figures=None
        )

    def show(self, figures: dict[str, Any]) -> None:
        """How far the run is: `Totals.progress`."""
        self._progress.update(
            self._task,
            total=max(figures["rows_planned"], 1),
            completed=figures["rows"],
            figures=figures,
        )


class _Fitting(Progress):
    """As many figures as the width of the console has room for, in order of worth."""

    def get_renderables(self) -> Iterable[RenderableType]:
        if not self.tasks:
            return
        (task,) = self.tasks
        width = self.console.width - 1  # some terminals wrap a line that is full
        parts = _fitting(_figures(task), width)
        used = sum(len(part) + 1 for part in parts)
        bar = min(max(width - used, LEAST_BAR), MOST_BAR)
        self.columns = (BarColumn(bar_width=bar), *map(_Part, parts))
        yield self.make_tasks_table([task])


class _Part(ProgressColumn):
    """A part of the line, which is made anew each time."""

    def __init__(self, text: str):
        super().__init__(table_column=Column(no_wrap=True))
        self._text = text

    def render(self, task: Task) -> Text:
        return Text(self._text)


@dataclass(frozen=True)
class _Figure:
    """A part of the line: its worth, 0 the most; how it is said, and in few cells."""

    worth: int
    text: str
    short: str = ""


ESSENTIAL = 2  # worth of what a line of 40 cells still has: share, rate, time left


def _figures(task: Task) -> list[_Figure]:
    """What can be said, in order of place."""
    figures: dict[str, Any] | None = task.fields.get("figures")
    if figures is None:
        seconds = time.monotonic() - task.fields.get("since", time.monotonic())
        return [_Figure(0, f"{task.fields.get('phase', '')} {duration(seconds)}")]
    share = 100 * figures["rows"] / max(figures["rows_planned"], 1)
    rate, left = figures["rows_per_second"], figures["eta_seconds"]
    rate = f"{rate:,.0f}" if rate >= 100 else f"{rate:,.1f}"
    found = [
        _Figure(0, f"{share:.0f}%"),
        _Figure(3, f"{figures['rows']:,}/{counted(figures['rows_planned'], 'row')}"),
        _Figure(1, f"{rate} rows/s", f"{rate}/s"),
        _Figure(6, f"{figures['tokens_per_second']:,} tokens/s"),
        _Figure(7, f"{figures['units']:,}/{counted(figures['units_planned'], 'unit')}"),
    ]
    if figures["quarantined"]:
        found.append(_Figure(4, f"{figures['quarantined']:,} quarantined"))
    if figures["bottleneck"]:
        found.append(_Figure(5, figures["bottleneck"]))
    if left is not None:
        found.append(_Figure(2, f"{duration(left)} left", duration(left)))
    return found


def _fitting(figures: list[_Figure], width: int) -> list[str]:
    """Those of most worth that have room beside the shortest bar, in order of place."""
    room = width - LEAST_BAR
    essential = sum(len(one.text) + 1 for one in figures if one.worth <= ESSENTIAL)
    said = {one.worth: one.text if essential <= room else one.short or one.text for one in figures}
    kept = set()
    for worth, text in sorted(said.items()):
        if len(text) + 1 > room:
            break
        room -= len(text) + 1
        kept.add(worth)
    return [said[one.worth] for one in figures if one.worth in kept]
