"""CSV files in memory, and all that the reader gives of them."""

from typing import Any

import fsspec
import pyarrow as pa

from bertbatch.inputs.formats.csv import CsvReader
from bertbatch.inputs.formats.reader import CutSize, Rows
from bertbatch.job.input import Input
from bertbatch.units import Cut, Source

BIG = CutSize(1 << 30, 1 << 30, 1 << 30)


def stored(data: bytes, name: str = "x.csv") -> Source:
    url = f"memory://{name}"
    fsspec.filesystem("memory").pipe_file("/" + name, data)
    return Source(name, url, len(data), "1")


def settings_of(**dialect: Any) -> Input:
    return Input(path="x.csv", csv=dialect)


def read(
    source: Source, columns: list[str], options: Input, size: CutSize = BIG
) -> tuple[list[Cut], list[tuple[int, list[str | None]]], dict[int, str]]:
    """The cuts, the good rows by number, and the bad ones."""
    reader = CsvReader()
    cuts = list(reader.cut(source, size, options))
    good: list[tuple[int, list[str | None]]] = []
    bad: dict[int, str] = {}
    for cut, rows in zip(cuts, reader.read(source, cuts, columns, options), strict=True):
        assert rows.table.schema == pa.schema([(c, pa.string()) for c in columns])
        assert isinstance(rows, Rows)
        assert len(rows.row) == rows.table.num_rows
        assert len(rows.row) + len(rows.bad) == cut.rows
        values = [column.to_pylist() for column in rows.table.columns]
        good += zip(rows.row.tolist(), (list(v) for v in zip(*values, strict=True)), strict=True)
        bad.update(rows.bad)
    return cuts, good, bad
