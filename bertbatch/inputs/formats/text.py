"""Plain text: one row a line, or one a file (`input.text_rows`), in UTF-8.

The only column is `text`. Every line is a row, also an empty one; `\\r` before its end is dropped.
A row that is not UTF-8 becomes a bad row.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
import pyarrow as pa

from bertbatch.errors import SourceError
from bertbatch.inputs.formats import lines
from bertbatch.inputs.formats.byte_cuts import MAX_RECORD, Records, cuts_of
from bertbatch.inputs.formats.byte_stream import ByteStream, is_stream, open_stream
from bertbatch.inputs.formats.columns import check_columns
from bertbatch.inputs.formats.reader import CutSize, Rows
from bertbatch.job.input import Input
from bertbatch.units import Cut, Source

_SCHEMA = pa.schema([("text", pa.string())])


class TextReader:
    def schema(self, source: Source, options: Input) -> pa.Schema:
        with _open(source, options) as stream:
            next(stream.blocks())  # says if it is no text
        return _SCHEMA

    def cut(
        self, source: Source, size: CutSize, options: Input, needed: Sequence[str] = ()
    ) -> Iterator[Cut]:
        with _open(source, options) as stream:
            blocks = stream.blocks()
            whole = options.text_rows == "file"
            yield from cuts_of(_whole(blocks) if whole else lines.records(blocks, True), size)

    def read(
        self,
        source: Source,
        cuts: Sequence[Cut],
        columns: Mapping[str, pa.DataType | None],
        options: Input,
    ) -> Iterator[Rows]:
        check_columns(source, columns, _SCHEMA)
        with _open(source, options) as stream:
            for cut in cuts:
                if cut.bytes > MAX_RECORD:
                    reason = f"{_place(cut, 0)}the text is {cut.bytes >> 20} MB long"
                    yield _rows([], [], [(cut.first_row, reason)])
                    continue
                data = stream.fetch(cut.start, cut.stop)
                found = [data] if options.text_rows == "file" else _lines(data)
                # There may be more lines than rows: `input.limit` shortens a cut.
                if len(data) < cut.stop - cut.start or len(found) < cut.rows:
                    raise SourceError(source.id, "has changed since it was planned")
                yield _decoded(cut, found[: cut.rows])

    def task_cuts(self, source: Source) -> int:
        return 16 if self.streams(source) else 4

    def streams(self, source: Source) -> bool:
        return is_stream(source)


def _whole(blocks: Iterator[bytes]) -> Iterator[Records]:
    """The whole file as one record, without a byte order mark."""
    stop, start = 0, 0
    for block in blocks:
        if not stop and block.startswith(lines.BOM):
            start = len(lines.BOM)
        stop += len(block)
    yield Records(np.array([start]), np.array([stop]))


def _lines(data: bytes) -> list[bytes]:
    return [line.removesuffix(b"\r") for _, line in lines.split(data, blank=True)]


def _decoded(cut: Cut, found: Sequence[bytes]) -> Rows:
    texts, rows = [], []
    bad: list[tuple[int, str]] = []
    for i, text in enumerate(found):
        try:
            texts.append(text.decode())
            rows.append(cut.first_row + i)
        except UnicodeDecodeError as error:
            reason = f"{_place(cut, i)}the text is not valid utf-8 at byte {error.start}"
            bad.append((cut.first_row + i, reason))
    return _rows(texts, rows, bad)


def _rows(texts: list[str], rows: list[int], bad: list[tuple[int, str]]) -> Rows:
    return Rows(pa.table([texts], schema=_SCHEMA), np.array(rows, np.int64), bad)


def _place(cut: Cut, row: int) -> str:
    return f"line {cut.line + row}: " if cut.line else ""


def _open(source: Source, options: Input) -> AbstractContextManager[ByteStream]:
    return open_stream(source, options, "text", "utf-8")
