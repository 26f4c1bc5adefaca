"""What a reader of a file format is.

It cuts a source into consecutive rows when planning, and reads such cuts when scoring. A format
is one file with one class that follows `Reader`, and one line in `FORMATS`. Readers deal with
files and columns, not with units, tokens or models.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from bertbatch.errors import SourceError
from bertbatch.job.input import Input
from bertbatch.registry import FORMATS
from bertbatch.units import Cut, Source


@dataclass(frozen=True)
class CutSize:
    """How large a cut may grow. The limit that is reached first closes it."""

    text_bytes: int
    carried_bytes: int
    rows: int


@dataclass
class Rows:
    """The rows of one cut: the readable ones in order, the `bad` ones with a reason.

    `table` holds the requested columns under their names in the source; `row` (int64) has the
    number in the source of each of its rows, counted from 0.
    """

    table: pa.Table
    row: np.ndarray
    bad: list[tuple[int, str]] = field(default_factory=list)


class Reader(Protocol):
    def schema(self, source: Source, options: Input) -> pa.Schema:
        """The columns of the source. Raises SourceError if it cannot be read."""

    def cut(self, source: Source, size: CutSize, options: Input) -> Iterator[Cut]:
        """All rows of the source as consecutive cuts. Raises SourceError."""

    def read(
        self, source: Source, cuts: Sequence[Cut], columns: Sequence[str], options: Input
    ) -> Iterator[Rows]:
        """One `Rows` for each cut, in order, opening the source once. Raises SourceError."""

    def task_cuts(self, source: Source) -> int:
        """How many consecutive cuts one reader task should take together."""

    def streams(self, source: Source) -> bool:
        """Whether everything before a cut is read again to reach it."""


def check_columns(source: Source, wanted: Iterable[str], found: Sequence[str]) -> None:
    """Raises SourceError if a wanted column is not among those found, or more than once."""
    times = Counter(found)
    for name in wanted:
        if name not in times:
            raise SourceError(source.id, f"has no column '{name}'; it has: {', '.join(found)}")
        if times[name] > 1:
            reason = f"has {times[name]} columns named '{name}'; rename those that are not meant"
            raise SourceError(source.id, reason)


def reader_of(format: str) -> Reader:
    """The reader of a format, one of `FORMATS`."""
    reader: Reader = FORMATS[format].load()()
    return reader
