"""A table of facts: a name in bold, then what it is."""

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

RED = ("failed", "alarm")


class Facts:
    """Facts in the order in which they are added. Names have at most half of the width."""

    def __init__(self) -> None:
        self._facts: list[tuple[str, str]] = []

    def add(self, name: str, text: str) -> None:
        self._facts.append((name, text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_column(style="bold", overflow="fold", max_width=options.max_width // 2)
        table.add_column(overflow="fold")
        for name, text in self._facts:
            # As Text, so that brackets in a path or a reason are no markup.
            table.add_row(Text(name, style="red" if name in RED else ""), Text(text))
        yield table
