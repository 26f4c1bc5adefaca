"""The rows of a unit, read from its sources.

Readers deal with files, stages with models; this module lies between them. A row without a text
that can be scored gets its reason here; carried columns get the output's names and types.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from bertbatch.errors import SourceError
from bertbatch.inputs.folders import partitions
from bertbatch.inputs.formats.reader import WRITTEN, CutSize, Reader, Rows
from bertbatch.inputs.preparation import prepared, put_together
from bertbatch.inputs.selection import select
from bertbatch.inputs.typed_columns import folder_values, typed_columns
from bertbatch.job.input import Input
from bertbatch.storage import stores
from bertbatch.units import Cut, RetryRows, Source, Unit

_STRINGS = (pa.string(), pa.large_string(), pa.string_view())
_BYTES = (pa.binary(), pa.large_binary(), pa.binary_view())
_PLACE = re.compile(r"^line \d+: | at byte \d+( of the field)?$")
FIRST_BYTES = 1 << 20  # of text, the first rows are taken from these


@dataclass
class Chunk:
    """The rows of one span: those to score, and the `bad` ones as a quarantine table."""

    texts: list[str]
    pair_texts: list[str]  # the second texts of pairs; empty for single texts
    row: np.ndarray
    carried: pa.Table
    bad: pa.Table
    left_out: int = 0  # by `input.where`

    def only(self, kept: np.ndarray) -> "Chunk":
        """With some of the rows to score, by bool [rows], and all others as they are."""

        def some(texts: list[str]) -> list[str]:
            return [text for text, keep in zip(texts, kept, strict=True) if keep] if texts else []

        return replace(
            self,
            texts=some(self.texts),
            pair_texts=some(self.pair_texts),
            row=self.row[kept],
            carried=self.carried.filter(pa.array(kept)),
        )


@dataclass(frozen=True)
class Types:
    """The types that columns keep, whatever a source has."""

    carried: pa.Schema  # by the output's names
    where: pa.Schema  # of the columns that `input.where` names


def texts_alone(options: Input, types: Types) -> tuple[Input, Types]:
    """What is asked of files, without carried columns."""
    alone = options.model_copy(update={"carry": []})
    return alone, Types(pa.schema([]), types.where)


def planned_cuts(reader: Reader, options: Input, source: Source, size: CutSize) -> Iterator[Cut]:
    """A source's cuts. Raises SourceError, also if it lacks a column that the job asks for."""
    folders = partitions(source)
    names = [*options.text_columns, *options.where_columns, *options.carried.values()]
    return reader.cut(source, size, options, [name for name in names if name not in folders])


def read_units(
    reader: Reader,
    options: Input,
    types: Types,
    units: Sequence[Unit],
    rules: Mapping[str, int],
) -> Iterator[tuple[Unit, list[Chunk]]]:
    """Each unit with a chunk for each of its spans; a source's spans are read in one go.

    `rules` are the output's. Raises SourceError.
    """
    spans = [(unit, span) for unit in units for span in unit.spans]
    collected: list[Chunk] = []
    for _, run in groupby(spans, key=lambda pair: pair[1].source.id):
        pairs = list(run)
        source = pairs[0][1].source
        check_unchanged(source, options)
        folders = folder_values(source, rules)
        columns = _columns(options, types, folders)
        rows_of_cuts = reader.read(source, [span.cut for _, span in pairs], columns, options)
        for (unit, span), rows in zip(pairs, rows_of_cuts, strict=True):
            chunk = _chunk(options, types, source, rows, folders)
            collected.append(_only(chunk, source, unit.retry) if unit.retry else chunk)
            if span is unit.spans[-1]:
                yield unit, collected
                collected = []
        check_unchanged(source, options)


def first_texts(reader: Reader, options: Input, source: Source, count: int) -> list[str]:
    """The texts of a source's first rows, if it can be read."""
    size = CutSize(FIRST_BYTES, FIRST_BYTES, count)
    try:
        for cut in reader.cut(source, size, options):
            first = next(iter(options.texts))
            columns = dict.fromkeys(options.texts[first])
            for rows in reader.read(source, [cut], columns, options):
                return _prepared(rows.table, first, options)[0]
    except SourceError:
        pass  # the run reports it
    return []


def _only(chunk: Chunk, source: Source, retry: RetryRows) -> Chunk:
    """Those of a span's rows that are to be scored again."""
    wanted = np.array([row for id_, row in retry.rows if id_ == source.id], np.int64)
    kept = np.isin(chunk.row, wanted)
    bad = np.isin(chunk.bad["row"].to_numpy(), wanted)
    absent = len(wanted) - int(kept.sum()) - int(bad.sum())
    return replace(
        chunk.only(kept),
        bad=chunk.bad.filter(pa.array(bad)),
        left_out=min(absent, chunk.left_out),
    )


def check_unchanged(source: Source, options: Input) -> None:
    """Raises SourceError if the file is no longer the one that was planned."""
    store, path = stores.connect(source.url, options.storage_options)
    try:
        now = store.info(path)
    except OSError as error:
        raise SourceError(source.id, f"cannot be opened: {error}") from error
    if (now.size, now.stamp) != (source.size, source.stamp):
        raise SourceError(source.id, "has changed since it was planned")


def _columns(
    options: Input, types: Types, folders: Mapping[str, str | None]
) -> dict[str, pa.DataType | None]:
    """What is read of a file, with the types that it is to have; None for texts."""
    typed = {name: types.where.field(name).type for name in options.where_columns}
    typed |= {old: types.carried.field(new).type for new, old in options.carried.items()}
    return dict.fromkeys(options.text_columns) | {
        name: kind for name, kind in typed.items() if name not in folders
    }


def _chunk(
    options: Input, types: Types, source: Source, rows: Rows, folders: dict[str, str | None]
) -> Chunk:
    if options.where is not None:
        rows = select(options, types.where, source, rows, folders)
    carried = typed_columns(options.carried, types.carried, source, rows.table, folders)
    texts: list[list[str]] = []
    reasons: dict[int, str] = {}
    for key in options.texts:
        found, wrong = _prepared(rows.table, key, options)
        texts.append(found)
        reasons = wrong | reasons
    bad = np.array([row for row, _ in rows.bad], np.int64)
    nulls = [pa.nulls(len(bad), field.type) for field in carried.schema]
    unreadable = quarantine(
        [source.id] * len(bad),
        bad,
        [reason for _, reason in rows.bad],
        pa.table(nulls, carried.schema) if nulls else carried,
    )
    pair_texts = texts[1] if len(texts) > 1 else []
    chunk = Chunk(texts[0], pair_texts, rows.row, carried, unreadable, rows.left_out)
    return leave_out(chunk, source, reasons) if reasons else chunk


def leave_out(chunk: Chunk, source: Source, reasons: dict[int, str]) -> Chunk:
    """The chunk with some of its rows moved to quarantine, for these reasons by position."""
    kept = np.ones(len(chunk.row), bool)
    kept[list(reasons)] = False
    unscorable = quarantine(
        [source.id] * len(reasons),
        chunk.row[~kept],
        [reasons[i] for i in sorted(reasons)],
        chunk.carried.filter(pa.array(~kept)),
    )
    return replace(chunk.only(kept), bad=pa.concat_tables([unscorable, chunk.bad]))


def _prepared(table: pa.Table, key: str, options: Input) -> tuple[list[str], dict[int, str]]:
    """One of a row's texts as it is scored, and for each position that cannot be the reason."""
    columns = options.texts[key]
    if key == "template":
        assert options.template
        texts, reasons = _put_together(table, options.template, columns)
    else:
        texts, reasons = _texts(table.column(columns[0]), key)
    prefix = "" if key == "text_pair" else options.prefix
    if options.normalize or prefix:
        texts = prepared(texts, options, prefix)
    return texts, reasons


def _put_together(
    table: pa.Table, template: str, columns: Sequence[str]
) -> tuple[list[str], dict[int, str]]:
    """As `_prepared`. A null is empty; a row of nothing but nulls has no text."""
    values: dict[str, list[str]] = {}
    reasons: dict[int, str] = {}
    nulls = np.zeros(table.num_rows, int)
    for name in columns:
        written = name + WRITTEN  # as JSON has it
        column = table.column(written if written in table.column_names else name)
        if not is_text(column.type):
            column = column.cast(pa.string())
        nulls += column.is_null().to_numpy()
        values[name], wrong = _texts(column, f"column '{name}'")
        reasons |= {i: why for i, why in wrong.items() if not why.endswith("is null")}
    for i in np.flatnonzero(nulls == len(columns)):
        reasons[int(i)] = f"all columns of input.template are null ({', '.join(columns)})"
    return put_together(template, values), reasons


def _texts(column: pa.ChunkedArray, key: str) -> tuple[list[str], dict[int, str]]:
    """The texts, and for each position that cannot be scored the reason."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if isinstance(kind, pa.BaseExtensionType) and is_text(kind):
        column, kind = column.cast(kind.storage_type), kind.storage_type
    if not is_text(kind):
        return [""] * len(column), dict.fromkeys(
            range(len(column)), f"{key} is {kind}, not a string"
        )
    values = [value for chunk in column.chunks for value in _values(chunk)]
    reasons: dict[int, str] = {}
    for i, value in enumerate(values):
        if not isinstance(value, str):
            reasons[i] = f"{key} is null" if value is None else f"{key} is not valid UTF-8"
            values[i] = ""
    return values, reasons


def is_text(kind: pa.DataType) -> bool:
    """Whether values are text, also if a file says only that they are bytes, or JSON."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if isinstance(kind, pa.JsonType):
        kind = kind.storage_type
    return kind in _STRINGS or kind in _BYTES


def _values(array: pa.Array) -> list[Any]:
    """Strings; bytes where they are not UTF-8. Equal rows of a dictionary share one string."""
    if array.type in _BYTES:
        return [_decode(value) for value in array.to_pylist()]
    if pa.types.is_dictionary(array.type):
        if len(array.dictionary) > len(array):
            return _values(array.dictionary_decode())
        entries = _values(array.dictionary)
        return [None if i is None else entries[i] for i in array.indices.to_pylist()]
    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:
        return [_decode(value) for value in array.cast(pa.large_binary()).to_pylist()]


def _decode(value: bytes | None) -> str | bytes | None:
    try:
        return value.decode() if value is not None else None
    except UnicodeDecodeError:
        return value


def without_place(reason: str) -> str:
    """Why a row cannot be scored, without where in its file or field: equal for equal causes."""
    return _PLACE.sub("", reason)


def quarantine(
    sources: list[str], rows: np.ndarray, reasons: list[str], carried: pa.Table
) -> pa.Table:
    """Rows of the quarantine file: source, row, reason, the carried columns."""
    columns = [pa.array(sources, pa.string()), pa.array(rows, pa.int64())]
    fields = [pa.field("source", pa.string()), pa.field("row", pa.int64())]
    return pa.table(
        [*columns, pa.array(reasons, pa.string()), *carried.columns],
        schema=pa.schema([*fields, pa.field("reason", pa.string()), *carried.schema]),
    )
