"""Parquet files: cuts follow row groups.

Row groups are read as a stream, never a large one as a whole. `parquet_cuts` decides where a file
is cut; planning reads little more than the footer.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertbatch.errors import SourceError, first_line
from bertbatch.inputs.formats.columns import Columns, check_columns
from bertbatch.inputs.formats.content import HEAD, what_it_is
from bertbatch.inputs.formats.group_cuts import tables_of
from bertbatch.inputs.formats.int96 import exact, int96_leaves, unit_of
from bertbatch.inputs.formats.parquet_cuts import (
    Open,
    cut_groups,
    dictionary_texts,
    encoded_bytes,
    is_of,
)
from bertbatch.inputs.formats.reader import CutSize, Rows
from bertbatch.job.input import Input
from bertbatch.storage import stores
from bertbatch.units import Cut, Source

BATCH_ROWS = 8192
BATCH_BYTES = 16 << 20


class ParquetReader:
    def schema(self, source: Source, options: Input) -> pa.Schema:
        with _open(source, options) as (parquet, _):
            unit = unit_of(parquet().metadata)
            return parquet(coerce_int96_timestamp_unit=unit).schema_arrow

    def cut(
        self, source: Source, size: CutSize, options: Input, needed: Sequence[str] = ()
    ) -> Iterator[Cut]:
        with _open(source, options) as (parquet, _):
            found = parquet().schema_arrow
            check_columns(source, needed if len(found) else (), found)  # an empty file has none
            yield from cut_groups(parquet, size, options)

    def read(
        self,
        source: Source,
        cuts: Sequence[Cut],
        columns: Mapping[str, pa.DataType | None],
        options: Input,
    ) -> Iterator[Rows]:
        if not cuts:
            return
        with _open(source, options) as (parquet, handle):
            plain = parquet()
            check_columns(source, columns, plain.schema_arrow)
            leaves = int96_leaves(plain.metadata)
            timed = [name for name in columns if any(is_of(leaf, name) for leaf in leaves)]
            packed = _packed(plain.metadata, cuts, options)
            file = parquet(read_dictionary=packed, coerce_int96_timestamp_unit="us")
            nano = parquet(coerce_int96_timestamp_unit="ns")
            may_hold = _may_hold(handle, plain.schema_arrow, columns, options)
            for useful, some in groupby(cuts, may_hold):
                if not useful:
                    empty = Columns.of(columns, plain.schema_arrow).schema(plain.schema_arrow)
                    for cut in some:
                        yield Rows(empty.empty_table(), np.zeros(0, np.int64), left_out=cut.rows)
                    continue
                run = list(some)
                tables = _tables(file, source, run, list(columns))
                nanos = _tables(nano, source, run, timed) if timed else None
                for cut, table in zip(run, tables, strict=True):
                    if nanos is not None:
                        table = _in_exact_units(source, table, next(nanos))
                    yield Rows(table, np.arange(cut.first_row, cut.first_row + cut.rows))

    def task_cuts(self, source: Source) -> int:
        return 4

    def streams(self, source: Source) -> bool:
        return False


def _may_hold(
    handle: Any, schema: pa.Schema, columns: Mapping[str, pa.DataType | None], options: Input
) -> Callable[[Cut], bool]:
    """Whether `input.where` may be true in a cut, by its row groups' least and largest values.

    Arrow tells, where columns have the types of the output.
    """
    names = options.where_columns
    if options.where is None or any(
        name not in schema.names or schema.field(name).type != columns.get(name) for name in names
    ):
        return lambda cut: True
    import pyarrow.dataset as ds  # which imports pandas

    from bertbatch.inputs.where import condition  # and sqlglot

    try:
        where = condition(options.where).may_hold(schema)
        if where is None:
            return lambda cut: True
        fragment = ds.ParquetFileFormat().make_fragment(handle).subset(filter=where, schema=schema)
    except (pa.ArrowException, ValueError):
        return lambda cut: True
    useful = {group.id for group in fragment.row_groups}
    return lambda cut: not useful.isdisjoint(range(cut.start, cut.stop))


def _packed(metadata: pq.FileMetaData, cuts: Sequence[Cut], options: Input) -> list[str]:
    """The text columns to read as dictionaries, where the cuts hold more than is encoded."""
    groups = range(cuts[0].start, cuts[-1].stop)
    if sum(cut.bytes for cut in cuts) <= encoded_bytes(metadata, groups, options):
        return []
    return dictionary_texts(metadata, groups, options)


def _tables(
    file: pq.ParquetFile, source: Source, cuts: Sequence[Cut], columns: Sequence[str]
) -> Iterator[pa.Table]:
    """The rows of each cut. Raises SourceError if there are fewer than planned."""
    groups = list(range(cuts[0].start, cuts[-1].stop))
    position = sum(file.metadata.row_group(g).num_rows for g in range(cuts[0].start))
    picked = Columns.of(columns, file.schema_arrow)
    batches = file.iter_batches(_batch_rows(cuts), row_groups=groups, columns=picked.leaves)
    schema = picked.schema(file.schema_arrow)
    return tables_of(map(picked.picked, batches), position, schema, source, cuts)


def _batch_rows(cuts: Sequence[Cut]) -> int:
    """How many rows are decoded at once: fewer if they are large."""
    widest = max(cut.bytes / max(cut.rows, 1) for cut in cuts)
    return int(min(BATCH_ROWS, max(BATCH_BYTES // max(widest, 1), 1)))


def _in_exact_units(source: Source, table: pa.Table, nano: pa.Table) -> pa.Table:
    """The rows with each INT96 column in the unit that loses nothing."""
    for name in nano.column_names:
        column = exact(name, source.id, table.column(name), nano.column(name))
        table = table.set_column(table.column_names.index(name), name, column)
    return table


@contextmanager
def _open(source: Source, options: Input) -> Iterator[tuple[Open, Any]]:
    """A function that opens the file with pyarrow's keywords, and what it opens.

    Any error becomes a SourceError.
    """
    store, path = stores.connect(source.url, options.storage_options)
    try:
        # Local names as bytes, since they need not be Unicode.
        with (
            pa.OSFile(os.fsencode(path)) if store.is_local else store.open(path, buffered=False)
        ) as handle:
            metadata = pq.read_metadata(handle)

            def opened(**how: object) -> pq.ParquetFile:
                how = {"pre_buffer": not store.is_local, **how}
                return pq.ParquetFile(handle, metadata=metadata, **how)

            yield opened, handle
    except SourceError:
        raise
    except Exception as error:  # a broken file makes pyarrow or the storage raise anything
        reason = _what_instead(store, path) or first_line(error)
        raise SourceError(source.id, f"cannot be read as Parquet: {reason}") from error


def _what_instead(store: stores.Store, path: str) -> str | None:
    """What a file holds that is not Parquet, if its kind is known."""
    try:
        head = store.read(path, 0, min(HEAD, store.info(path).size))
        if (kind := what_it_is(head)) is None and head:
            head.decode(errors="strict" if len(head) < HEAD else "ignore")
            kind = "text" if b"\0" not in head else None
    except (OSError, UnicodeDecodeError):
        return None
    return f"what it holds is {kind}" if kind and "Parquet" not in kind else None
