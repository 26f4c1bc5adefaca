"""What a reader of a file format is.

It cuts a source into consecutive rows when planning, and reads such cuts when scoring. A format
is one file with one class that follows `Reader`, and one line in `FORMATS`. Readers deal with
files and columns, not with units, tokens or models.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from bertbatch.job.input import Input
from bertbatch.registry import FORMATS
from bertbatch.units import Cut, Source

WRITTEN = "\0"  # ends the name of a column with a value as the file writes it, beside the value


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
    number in the source of each of its rows, counted from 0. `left_out` rows were not read, since
    `input.where` can be true for none of them.
    """

    table: pa.Table
    row: np.ndarray
    bad: list[tuple[int, str]] = field(default_factory=list)
    left_out: int = 0


class Reader(Protocol):
    def schema(self, source: Source, options: Input) -> pa.Schema:
        """The columns of the source. Raises SourceError if it cannot be read."""

    def cut(
        self, source: Source, size: CutSize, options: Input, needed: Sequence[str] = ()
    ) -> Iterator[Cut]:
        """All rows of the source as consecutive cuts.

        Raises SourceError, also if a needed column is not there where all rows have the same ones.
        """

    def read(
        self,
        source: Source,
        cuts: Sequence[Cut],
        columns: Mapping[str, pa.DataType | None],
        options: Input,
    ) -> Iterator[Rows]:
        """One `Rows` for each cut, in order, opening the source once. Raises SourceError.

        `columns` have the types of columns that are carried or that `input.where` names, and None
        for texts. Readers of files with types of their own need not look at them.
        """

    def task_cuts(self, source: Source) -> int:
        """How many consecutive cuts one reader task should take together."""

    def streams(self, source: Source) -> bool:
        """Whether everything before a cut is read again to reach it."""


def reader_of(format: str) -> Reader:
    """The reader of a format, one of `FORMATS`."""
    reader: Reader = FORMATS[format].load()()
    return reader
