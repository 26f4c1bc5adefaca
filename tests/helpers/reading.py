"""Files in memory, and all that a reader gives of them."""

from collections.abc import Sequence
from typing import Any

import fsspec
import pyarrow as pa

from bertbatch.inputs.formats.reader import CutSize, Reader, Rows, reader_of
from bertbatch.job.input import Input
from bertbatch.units import Cut, Source

BIG = CutSize(1 << 30, 1 << 30, 1 << 30)


def stored(data: bytes, name: str = "x.csv") -> Source:
    url = f"memory://{name}"
    fsspec.filesystem("memory").pipe_file("/" + name, data)
    return Source(name, url, len(data), "1")


def settings_of(**dialect: Any) -> Input:
    return Input(path="x.csv", csv=dialect)


def all_rows(
    reader: Reader,
    source: Source,
    columns: dict[str, pa.DataType | None],
    options: Input,
    size: CutSize = BIG,
) -> tuple[list[Cut], list[tuple[int, list[Any]]], dict[int, str]]:
    """The cuts, the good rows by number, and the bad ones."""
    cuts = list(reader.cut(source, size, options))
    good: list[tuple[int, list[Any]]] = []
    bad: dict[int, str] = {}
    for cut, rows in zip(cuts, reader.read(source, cuts, columns, options), strict=True):
        assert isinstance(rows, Rows)
        assert rows.table.column_names == list(columns)
        assert len(rows.row) == rows.table.num_rows
        assert len(rows.row) + len(rows.bad) == cut.rows
        values = [column.to_pylist() for column in rows.table.columns]
        good += zip(rows.row.tolist(), (list(v) for v in zip(*values, strict=True)), strict=True)
        bad.update(rows.bad)
    return cuts, good, bad


def read(
    source: Source, columns: Sequence[str], options: Input, size: CutSize = BIG
) -> tuple[list[Cut], list[tuple[int, list[Any]]], dict[int, str]]:
    """The rows of a CSV file."""
    return all_rows(reader_of("csv"), source, dict.fromkeys(columns), options, size)


def check_cuts(cuts: list[Cut], rows: int, start: int, size: CutSize) -> None:
    """The cuts hold that many rows, one after another, and are no larger than they may be."""
    next_row, at = 0, start
    for cut in cuts:
        assert cut.first_row == next_row
        assert cut.start >= at
        assert cut.stop > cut.start
        assert cut.bytes == cut.stop - cut.start
        assert cut.rows == 1 or (cut.rows <= size.rows and cut.bytes <= size.text_bytes)
        next_row, at = next_row + cut.rows, cut.stop
    assert next_row == rows
