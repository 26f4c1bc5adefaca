"""CSV files: cuts are byte ranges of whole records.

A field with nothing between its separators is null, `""` is an empty string, and every
column is a string. A record that can't be used (wrong number of fields, bytes that can't be
decoded) becomes a bad row; the other rows are scored. `csv_records` says where records begin
and end, for planning and for reading. `byte_stream` opens and decompresses files.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

from bertbatch.errors import SourceError
from bertbatch.inputs.formats import csv_records
from bertbatch.inputs.formats.byte_stream import ByteStream, compression, open_stream
from bertbatch.inputs.formats.csv_records import Fields, Ints, OpenQuote
from bertbatch.inputs.formats.reader import CutSize, Rows, check_columns
from bertbatch.job.input import Csv, Input
from bertbatch.units import Cut, Source

log = logging.getLogger("bertbatch")

# Two open quotes swallow everything between them; no text is that long.
MAX_RECORD = 128 << 20
_HEAD = (64 << 10, 1 << 20, 16 << 20)  # the first record is looked for in ever more bytes
_LONG = 1000  # a record of more lines causes a warning


class CsvReader:
    def schema(self, source: Source, options: Input) -> pa.Schema:
        return pa.schema([(name, pa.string()) for name in _columns(source, options)])

    def cut(self, source: Source, size: CutSize, options: Input) -> Iterator[Cut]:
        limit = min(size.text_bytes, size.carried_bytes, MAX_RECORD)
        header = options.csv.header
        first_row = rows = start = stop = 0  # of the cut that is open
        long: list[tuple[int, int]] = []
        with _open(source, options) as stream:
            for starts, stops, lines in csv_records.records(stream.blocks(), options.csv):
                at = np.flatnonzero(lines > _LONG)
                long += zip(starts[at].tolist(), stops[at].tolist(), strict=True)
                if header:
                    starts, stops, header = starts[1:], stops[1:], False
                done = 0
                while done < len(starts):
                    start = start if rows else int(starts[done])
                    fit = int(np.searchsorted(stops, start + limit, "right"))
                    fit = min(max(fit, done if rows else done + 1), done + size.rows - rows)
                    if fit > done:
                        rows, stop = rows + fit - done, int(stops[fit - 1])
                    if fit < len(starts):
                        yield Cut(first_row, rows, start, stop, stop - start)
                        first_row, rows = first_row + rows, 0
                    done = fit
        if rows:
            yield Cut(first_row, rows, start, stop, stop - start)
        if long:
            _warn_of_long(source, options, long)

    def read(
        self, source: Source, cuts: Sequence[Cut], columns: Sequence[str], options: Input
    ) -> Iterator[Rows]:
        names = _columns(source, options)
        check_columns(source, columns, names)
        with _open(source, options) as stream:
            for cut in cuts:
                if cut.bytes > MAX_RECORD:
                    yield _too_long(cut, columns)
                    continue
                data = stream.fetch(cut.start, cut.stop)
                fields = csv_records.fields(data, options.csv)
                # There may be more records than rows: `input.limit` shortens a cut.
                if len(data) < cut.stop - cut.start or len(fields.first) < cut.rows:
                    raise SourceError(source.id, "has changed since it was planned")
                yield _rows(cut, fields, names, columns, options.csv)

    def task_cuts(self, source: Source) -> int:
        return 16 if self.streams(source) else 4

    def streams(self, source: Source) -> bool:
        return compression(source) is not None


def _rows(cut: Cut, fields: Fields, names: list[str], columns: Sequence[str], csv: Csv) -> Rows:
    whose = "header" if csv.header else "first record"
    row = np.arange(cut.first_row, cut.first_row + cut.rows)
    count, first = fields.count[: cut.rows], fields.first[: cut.rows]
    fits = count == len(names)
    reasons = {
        int(row[i]): f"has {_fields(count[i])}, the {whose} has {len(names)}"
        for i in np.flatnonzero(~fits)
    }
    row, first = row[fits], first[fits]
    arrays = []
    for name in columns:
        array, wrong = _decode(_column(fields, first + names.index(name)), csv.encoding)
        for i, at in wrong.items():
            reason = f"column '{name}' is not valid {csv.encoding} at byte {at} of the field"
            reasons.setdefault(int(row[i]), reason)
        arrays.append(array)
    table = pa.table(arrays, schema=_text_schema(columns))
    if reasons:
        good = ~np.isin(row, list(reasons))
        table, row = table.filter(pa.array(good)), row[good]
    return Rows(table, row, sorted(reasons.items()))


def _too_long(cut: Cut, columns: Sequence[str]) -> Rows:
    reason = f"the record is {cut.bytes >> 20} MB long; is a quote left open in it?"
    return Rows(
        _text_schema(columns).empty_table(), np.zeros(0, np.int64), [(cut.first_row, reason)]
    )


def _text_schema(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in columns])


def _column(fields: Fields, which: Ints) -> pa.Array:
    """The text of some fields, as bytes; null where there is nothing between separators."""
    start, stop = fields.start[which], fields.stop[which]
    empty = start == stop
    # Every second value is a field, the others lie between fields: nothing is copied yet.
    edges = np.stack((fields.offsets(start), fields.offsets(stop)), axis=1).ravel()
    offsets = np.append(edges, edges[-1:] if len(edges) else 0).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(fields.text)]
    values = pa.Array.from_buffers(pa.binary(), len(edges), buffers)
    return values.take(pa.array(np.arange(0, len(edges), 2), mask=empty))


def _decode(array: pa.Array, encoding: str) -> tuple[pa.Array, dict[int, int]]:
    """The values as strings; for each value that can't be decoded, its first wrong byte."""
    if encoding == "utf-8":
        try:
            return array.cast(pa.string()), {}
        except pa.ArrowInvalid:
            pass  # decode one by one, to find which
    texts: list[str | None] = []
    wrong: dict[int, int] = {}
    for i, value in enumerate(array.to_pylist()):
        try:
            texts.append(None if value is None else value.decode(encoding))
        except UnicodeDecodeError as error:
            texts.append(None)
            wrong[i] = error.start
    return pa.array(texts, pa.string()), wrong


def _columns(source: Source, options: Input) -> list[str]:
    """The names of the columns; none if the file is empty."""
    fields = csv_records.fields(_first_record(source, options), options.csv)
    if not len(fields.count):
        return []
    if not options.csv.header:
        return [f"c{i}" for i in range(fields.count[0])]
    array, wrong = _decode(_column(fields, np.arange(fields.count[0])), options.csv.encoding)
    if wrong:
        raise SourceError(
            source.id, f"its header is not valid {options.csv.encoding}; set input.csv.encoding"
        )
    return [name or "" for name in array.to_pylist()]


def _first_record(source: Source, options: Input) -> bytes:
    with _open(source, options) as stream:
        head = b""
        for size in _HEAD:
            head += stream.fetch(len(head), size)
            stream.check_head(head)
            try:
                starts, stops, _ = next(csv_records.records([head], options.csv), ([0], [0], [0]))
            except OpenQuote:
                if len(head) < size:
                    raise
                continue
            start, stop = int(starts[0]), int(stops[0])
            if len(head) < size or 0 < stop < len(head):
                return head[start:stop]
    raise SourceError(
        source.id, f"its first record is longer than {size >> 20} MB; is a quote left open in it?"
    )


def _fields(n: int) -> str:
    return f"{n} field" if n == 1 else f"{n} fields"


def _warn_of_long(source: Source, options: Input, records: list[tuple[int, int]]) -> None:
    with _open(source, options) as stream:
        lines = stream.lines_before([at for record in records for at in record])
    spans = zip(lines[::2], lines[1::2], strict=True)
    long = [(first, last) for first, last in spans if last - first > _LONG]
    if long:
        log.warning(
            "%s: %d records have more than %d lines, such as lines %d to %d; are quotes left open?",
            source.id,
            len(long),
            _LONG,
            long[0][0] + 1,
            long[0][1],
        )


@contextmanager
def _open(source: Source, options: Input) -> Iterator[ByteStream]:
    with open_stream(source, options, "CSV", options.csv.encoding) as stream:
        try:
            yield stream
        except OpenQuote as error:
            with _open(source, options) as again:
                (line,) = again.lines_before([error.at])
            reason = f"the quote that opens in line {line + 1} is never closed; close or double it"
            raise SourceError(source.id, reason) from error
