"""A table of facts: a name in bold, then what it is."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

RED = ("failed", "alarm")


class Facts:
    """Facts in the order in which they are added."""

    def __init__(self) -> None:
        self._table = Table(show_header=False, box=None, pad_edge=False)
        self._table.add_column(style="bold")
        self._table.add_column(overflow="fold")

    def add(self, name: str, text: str) -> None:
        # As Text, so that brackets in a path or a reason are no markup.
        self._table.add_row(Text(name, style="red" if name in RED else ""), Text(text))

    def show(self) -> Console:
        """Prints the table; the console is for what follows it."""
        console = Console()
        console.print(self._table, highlight=False, soft_wrap=True)
        return console
