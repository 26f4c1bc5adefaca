"""Arrow files, which are Feather, or Arrow streams: cuts follow record batches.

Only the columns that are asked for are read. A stream has no index: to reach a cut, everything
before it is read again. Files are read rather than mapped, since a mapped file that somebody
shortens ends the process.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from bertbatch.errors import SourceError, first_line
from bertbatch.inputs.formats.columns import Columns, check_columns
from bertbatch.inputs.formats.content import HEAD, what_it_is
from bertbatch.inputs.formats.group_cuts import Sizes, cuts_of, held_bytes, tables_of
from bertbatch.inputs.formats.reader import CutSize, Rows
from bertbatch.job.input import Input
from bertbatch.storage import stores
from bertbatch.units import Cut, Source

_MAGIC = b"ARROW1"  # of a file; a stream has none
_BYTES = {
    pa.string(): pa.binary(),
    pa.large_string(): pa.large_binary(),
    pa.string_view(): pa.binary_view(),
}


class ArrowReader:
    def schema(self, source: Source, options: Input) -> pa.Schema:
        with _open(source, options) as arrow:
            return arrow.schema

    def cut(
        self, source: Source, size: CutSize, options: Input, needed: Sequence[str] = ()
    ) -> Iterator[Cut]:
        texts = set(options.text_columns)
        wanted = [*options.text_columns, *options.carried.values()]
        with _open(source, options) as arrow:
            found = arrow.schema
            check_columns(source, needed if len(found) else (), found)  # an empty file has none
            batches = arrow.batches(Columns.of(wanted, arrow.schema))
            yield from cuts_of(((_sizes(batch, texts), None) for batch in batches), size)

    def read(
        self,
        source: Source,
        cuts: Sequence[Cut],
        columns: Mapping[str, pa.DataType | None],
        options: Input,
    ) -> Iterator[Rows]:
        if not cuts:
            return
        with _open(source, options) as arrow:
            check_columns(source, columns, arrow.schema)
            picked = Columns.of(columns, arrow.schema)
            start = 0 if arrow.stream else cuts[0].start
            batches = map(_checked, arrow.batches(picked, start, cuts[-1].stop))
            schema = picked.schema(arrow.schema)
            tables = tables_of(batches, arrow.rows_before(start), schema, source, cuts)
            for cut, table in zip(cuts, tables, strict=True):
                yield Rows(table, np.arange(cut.first_row, cut.first_row + cut.rows))

    def task_cuts(self, source: Source) -> int:
        return 16

    def streams(self, source: Source) -> bool:
        return True


class _Arrow:
    """An open Arrow file or stream."""

    def __init__(self, file: BinaryIO, stream: bool):
        self._file = file
        self.stream = stream
        self.schema: pa.Schema = self._opened(None).schema

    def batches(
        self, columns: Columns, start: int = 0, stop: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The columns of the batches from `start` to `stop`."""
        names = enumerate(self.schema.names)
        reader = self._opened([i for i, name in names if name in columns.roots])
        yield from map(columns.picked, self._all(reader, start, stop))

    def rows_before(self, batch: int) -> int:
        """How many rows there are before a batch."""
        return sum(each.num_rows for each in self._all(self._opened([]), 0, batch))

    def _all(self, reader: Any, start: int, stop: int | None) -> Iterator[pa.RecordBatch]:
        if not self.stream:
            last = reader.num_record_batches
            for i in range(start, last if stop is None else min(stop, last)):
                yield reader.get_batch(i)
            return
        yield from islice(reader, start, stop)

    def _opened(self, fields: list[int] | None) -> pa.RecordBatchFileReader | pa.RecordBatchReader:
        options = pa.ipc.IpcReadOptions(included_fields=fields)
        self._file.seek(0)
        open_ = pa.ipc.open_stream if self.stream else pa.ipc.open_file
        return open_(self._file, options=options)


def _sizes(batch: pa.RecordBatch, texts: set[str]) -> Sizes:
    held = {name: held_bytes(batch.column(i)) for i, name in enumerate(batch.schema.names)}
    text = sum(size for name, size in held.items() if name in texts)
    return Sizes(batch.num_rows, text, sum(held.values()) - text)


def _checked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch. Raises ArrowInvalid if it is damaged; a text that is not UTF-8 is no damage."""
    for column in batch.columns:
        as_bytes = _BYTES.get(column.type)
        (column.cast(as_bytes) if as_bytes else column).validate(full=True)
    return batch


@contextmanager
def _open(source: Source, options: Input) -> Iterator[_Arrow]:
    """An open file. Any error becomes a SourceError."""
    store, path = stores.connect(source.url, options.storage_options)
    try:
        # Local names as bytes, since they need not be Unicode.
        with pa.OSFile(os.fsencode(path)) if store.is_local else store.open(path) as file:
            head = file.read(HEAD)
            kind = what_it_is(head)
            if kind not in (None, "an Arrow file") or head.startswith(b"FEA1"):
                what = "Feather's first version" if head.startswith(b"FEA1") else kind
                raise SourceError(source.id, f"cannot be read as Arrow: what it holds is {what}")
            yield _Arrow(file, stream=not head.startswith(_MAGIC))
    except SourceError:
        raise
    except Exception as error:  # a broken file makes pyarrow or the storage raise anything
        raise SourceError(source.id, f"cannot be read as Arrow: {first_line(error)}") from error
