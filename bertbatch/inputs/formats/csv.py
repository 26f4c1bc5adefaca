"""CSV files: cuts are byte ranges of whole records.

A field with nothing between its separators is null, `""` is an empty string, and every
column is a string. A record that can't be used (wrong number of fields, bytes that can't be
decoded) becomes a bad row; the other rows are scored. `csv_records` says where records begin
and end, for planning and for reading. `byte_stream` opens and decompresses files.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

from bertbatch.errors import SourceError
from bertbatch.inputs.formats import csv_records
from bertbatch.inputs.formats.byte_cuts import MAX_RECORD, Ints, Records, cuts_of
from bertbatch.inputs.formats.byte_stream import ByteStream, is_stream, open_stream
from bertbatch.inputs.formats.columns import check_columns
from bertbatch.inputs.formats.csv_records import Dialect, Fields, OpenQuote
from bertbatch.inputs.formats.reader import CutSize, Rows
from bertbatch.job.input import Csv, Input
from bertbatch.registry import packed
from bertbatch.units import Cut, Source

log = logging.getLogger("bertbatch")

_HEAD = (64 << 10, 1 << 20, 16 << 20)  # the first record is looked for in ever more bytes
_LONG = 1000  # a record of more lines causes a warning


class CsvReader:
    def schema(self, source: Source, options: Input) -> pa.Schema:
        names = _columns(source, options)
        if options.csv.escape is None:
            _warn_of_escapes(source, options)
        return _text_schema(names)

    def cut(
        self, source: Source, size: CutSize, options: Input, needed: Sequence[str] = ()
    ) -> Iterator[Cut]:
        if needed and (names := _columns(source, options)):  # an empty file has none
            check_columns(source, needed, _text_schema(names))
        long: list[tuple[int, int]] = []
        with _open(source, options) as stream:
            yield from cuts_of(_records(stream, options, long), size)
        if long:
            _warn_of_long(source, options, long)

    def read(
        self,
        source: Source,
        cuts: Sequence[Cut],
        columns: Mapping[str, pa.DataType | None],
        options: Input,
    ) -> Iterator[Rows]:
        dialect = _dialect(source, options.csv)
        names = _columns(source, options)
        check_columns(source, columns, _text_schema(names))
        with _open(source, options) as stream:
            for cut in cuts:
                if cut.bytes > MAX_RECORD:
                    yield _too_long(cut, list(columns))
                    continue
                data = stream.fetch(cut.start, cut.stop)
                fields = csv_records.fields(data, dialect)
                # There may be more records than rows: `input.limit` shortens a cut.
                if len(data) < cut.stop - cut.start or len(fields.first) < cut.rows:
                    raise SourceError(source.id, "has changed since it was planned")
                yield _rows(cut, fields, names, list(columns), options.csv, stream.encoding)

    def task_cuts(self, source: Source) -> int:
        return 16 if self.streams(source) else 4

    def streams(self, source: Source) -> bool:
        return is_stream(source)


def _records(stream: ByteStream, options: Input, long: list[tuple[int, int]]) -> Iterator[Records]:
    """The records but the header. Those of very many lines go to `long`, too."""
    header = options.csv.header
    dialect = _dialect(stream.source, options.csv)
    for starts, stops, lines in csv_records.records(stream.blocks(), dialect):
        at = np.flatnonzero(lines > _LONG)
        long += zip(starts[at].tolist(), stops[at].tolist(), strict=True)
        yield Records(starts[1:], stops[1:]) if header else Records(starts, stops)
        header = False


def _rows(
    cut: Cut, fields: Fields, names: list[str], columns: Sequence[str], csv: Csv, encoding: str
) -> Rows:
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
        array = _column(fields, first + names.index(name), csv.escape)
        array, wrong = _decode(array, encoding)
        for i, at in wrong.items():
            reason = f"column '{name}' is not valid {encoding} at byte {at} of the field"
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


def _dialect(source: Source, csv: Csv) -> Dialect:
    named = source.path.lower().endswith(packed(".tsv"))
    return Dialect(csv.delimiter or ("\t" if named else ","), csv.quote, csv.escape)


def _column(fields: Fields, which: Ints, escape: str | None) -> pa.Array:
    """The text of some fields, as bytes; null where there is nothing between separators."""
    start, stop = fields.start[which], fields.stop[which]
    empty = start == stop
    first = fields.offsets(start)
    if escape is not None:
        plain = (stop - start == 2) & (fields.offsets(stop) - first == 2)  # has no quotes
        short = np.flatnonzero(plain)
        pairs = fields.text[first[short, None] + (0, 1)]
        empty[short] = (pairs == (ord(escape), ord("N"))).all(axis=1)
    # Every second value is a field, the others lie between fields: nothing is copied yet.
    edges = np.stack((first, fields.offsets(stop)), axis=1).ravel()
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
    record, encoding = _first_record(source, options)
    fields = csv_records.fields(record, _dialect(source, options.csv))
    if not len(fields.count):
        return []
    if not options.csv.header:
        return [f"c{i}" for i in range(fields.count[0])]
    names = _column(fields, np.arange(fields.count[0]), options.csv.escape)
    array, wrong = _decode(names, encoding)
    if wrong:
        raise SourceError(source.id, f"its header is not valid {encoding}; set input.csv.encoding")
    return [name or "" for name in array.to_pylist()]


def _first_record(source: Source, options: Input) -> tuple[bytes, str]:
    """The bytes of the first record, and how they are encoded."""
    dialect = _dialect(source, options.csv)
    with _open(source, options) as stream:
        head = b""
        for size in _HEAD:
            head += stream.fetch(len(head), size)
            stream.check_head(head)
            try:
                starts, stops, _ = next(csv_records.records([head], dialect), ([0], [0], [0]))
            except OpenQuote:
                if len(head) < size:
                    raise
                continue
            start, stop = int(starts[0]), int(stops[0])
            if len(head) < size or 0 < stop < len(head):
                return head[start:stop], stream.encoding
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


def _warn_of_escapes(source: Source, options: Input) -> None:
    """Warns if the first bytes have quotes as other programs escape them."""
    dialect = _dialect(source, options.csv)
    quote, delimiter = re.escape(dialect.quote), re.escape(dialect.delimiter)
    # Before a delimiter or another quote it may be the last character of a field.
    escaped = rf"[^\\]\\{quote}[^{delimiter}{quote}\r\n]".encode()
    with _open(source, options) as stream:
        head = stream.fetch(0, _HEAD[1])
    if found := re.search(escaped, head):
        line = head.count(b"\n", 0, found.start()) + 1
        log.warning(
            "%s: line %d has a backslash before a quote; if it makes the quote a part of the text, "
            "as Spark and MySQL write it, set input.csv.escape to '\\'",
            source.id,
            line,
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
