"""What a command prints: lines of standard output's width, without spaces at their ends."""

import os

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

UNBOUNDED = 100_000  # columns, where nothing says how many there are: of a pipe, or a file
LEAST = 20  # columns that a terminal has at least


def show(*lines: RenderableType) -> None:
    """Prints each on standard output. A string is plain text, whose brackets are no markup."""
    console = Console()
    bounded = console.is_terminal or os.environ.get("COLUMNS", "").isdigit()
    console.width = max(console.width, LEAST) if bounded else UNBOUNDED
    for line in lines:
        console.print(Trimmed(Text(line) if isinstance(line, str) else line))


class Trimmed:
    """Something with the spaces left out that fill its lines up to a width."""

    def __init__(self, filled: RenderableType):
        self._filled = filled

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in console.render_lines(self._filled, options, pad=False):
            while line and not line[-1].text.strip(" "):
                line.pop()
            if line:
                text, style, control = line.pop()
                line.append(Segment(text.rstrip(" "), style, control))
            yield from line
            yield Segment.line()
