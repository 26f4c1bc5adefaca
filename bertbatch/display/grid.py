"""A table whose figures are never cut, however narrow a terminal is."""

from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.table import Table
from rich.text import Text

GAP = 2  # cells between columns
FOLDED = 20  # cells of a column up to which it is never folded: figures are shorter


class Grid:
    """Rows of cells below the names of their columns.

    Where they have no room, the columns continue in further tables below the first, of which each
    begins with the first `keys` columns again; longer texts are folded. A column without a name
    stays with the one before.
    """

    def __init__(self, *names: str, keys: int = 1, right: Sequence[str] = ()):
        """`right`: the columns whose cells end at one place."""
        self._names, self._keys, self._right = names, keys, right
        self._rows: list[Sequence[str]] = []

    def add(self, *cells: str) -> None:
        self._rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for i, columns in enumerate(self._tables(options.max_width)):
            if i:
                yield Text()
            yield self._table(columns, options.max_width)

    def _tables(self, room: int) -> Iterator[list[int]]:
        """The columns of each table: as many as have room."""
        keys = list(range(self._keys))
        columns = keys.copy()
        for group in self._groups():
            wanted = [*columns, *group]
            if len(columns) > len(keys) and _total(map(self._least, wanted)) > room:
                yield columns
                wanted = [*keys, *group]
            columns = wanted
        yield columns

    def _groups(self) -> list[list[int]]:
        """The columns after the keys, each with those that stay with it."""
        groups: list[list[int]] = []
        for column in range(self._keys, len(self._names)):
            if self._names[column] or not groups:
                groups.append([column])
            else:
                groups[-1].append(column)
        return groups

    def _table(self, columns: list[int], room: int) -> Table:
        widths = self._widths(columns, room)
        table = Table(box=None, pad_edge=False)
        for column, width in zip(columns, widths, strict=True):
            name = self._names[column]
            side: JustifyMethod = "right" if name in self._right else "left"
            table.add_column(Text(name), justify=side, width=width, overflow="fold")
        for row in self._rows:
            table.add_row(*(Text(row[column]) for column in columns))
        return table

    def _widths(self, columns: list[int], room: int) -> list[int]:
        """The columns' widths: the widest are folded until there is room, figures at last."""
        widths = [min(self._width(column), room) for column in columns]
        for least in (list(map(self._least, columns)), [1] * len(columns)):
            while _total(widths) > room:
                spare = [width - bound for width, bound in zip(widths, least, strict=True)]
                if max(spare) <= 0:
                    break
                widest = max(range(len(widths)), key=lambda i: (spare[i] > 0, widths[i]))
                widths[widest] -= 1
        return widths

    def _least(self, column: int) -> int:
        return min(self._width(column), FOLDED)

    def _width(self, column: int) -> int:
        cells = (self._names[column], *(row[column] for row in self._rows))
        return max((cell_len(line) for cell in cells for line in cell.splitlines()), default=0) or 1


def _total(widths: Iterable[int]) -> int:
    each = list(widths)
    return sum(each) + GAP * (len(each) - 1)
