"""Parquet: cuts follow row groups, read as a stream and never a whole large group at once.

Small consecutive row groups share a cut; a large one is divided evenly. Sizes come from
the footer's column chunks, so that planning reads no data.
"""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertbatch import storage
from bertbatch.errors import SourceError
from bertbatch.job import Input
from bertbatch.readers import CutSize, Rows, missing_columns
from bertbatch.units import Cut, Source

BATCH_ROWS = 8192


class ParquetReader:
    def schema(self, source: Source, options: Input) -> pa.Schema:
        with _open(source, options) as file:
            return file.schema_arrow

    def cut(self, source: Source, size: CutSize, options: Input) -> Iterator[Cut]:
        with _open(source, options) as file:
            yield from _cut(file.metadata, size, options)

    def read(
        self, source: Source, cuts: Sequence[Cut], columns: Sequence[str], options: Input
    ) -> Iterator[Rows]:
        with _open(source, options) as file:
            missing_columns(source, columns, file.schema_arrow.names)
            groups = list(range(cuts[0].start, cuts[-1].stop))
            position = sum(file.metadata.row_group(g).num_rows for g in range(cuts[0].start))
            batches = file.iter_batches(BATCH_ROWS, row_groups=groups, columns=list(columns))
            schema = pa.schema([file.schema_arrow.field(name) for name in columns])
            rest: list[pa.RecordBatch] = []
            for cut in cuts:
                taken: list[pa.RecordBatch] = []
                wanted = cut.rows
                skip = cut.first_row - position
                position = cut.first_row + cut.rows
                while skip or wanted:
                    batch = rest.pop() if rest else next(batches, None)
                    if batch is None:
                        raise SourceError(source.id, "has fewer rows than when it was planned")
                    skipped = min(skip, batch.num_rows)
                    skip -= skipped
                    used = min(wanted, batch.num_rows - skipped)
                    wanted -= used
                    if used:
                        taken.append(batch.slice(skipped, used).select(list(columns)))
                    if skipped + used < batch.num_rows:
                        rest.append(batch.slice(skipped + used))
                table = pa.Table.from_batches(taken, schema=schema.with_metadata(None))
                yield Rows(table, np.arange(cut.first_row, cut.first_row + cut.rows))

    def task_cuts(self, source: Source) -> int:
        return 4


@contextmanager
def _open(source: Source, options: Input) -> Iterator[pq.ParquetFile]:
    store, path = storage.connect(source.url, options.storage_options)
    try:
        if store.is_local:
            # As bytes, since a name may be no Unicode.
            with pa.OSFile(os.fsencode(path)) as handle, pq.ParquetFile(handle) as file:
                yield file
        else:
            with (
                store.open(path, buffered=False) as handle,
                pq.ParquetFile(handle, pre_buffer=True) as file,
            ):
                yield file
    except SourceError:
        raise
    except Exception as error:  # whatever a broken file makes pyarrow or the storage raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(source.id, f"cannot be read as Parquet: {reason}") from error


def _is_of(path: str, column: str) -> bool:
    """Whether a leaf's path belongs to a column, which may be nested or have dots in its name."""
    return path == column or path.startswith(f"{column}.")


def _cut(metadata: pq.FileMetaData, size: CutSize, options: Input) -> Iterator[Cut]:
    texts, carried = set(options.texts.values()), set(options.carried.values())
    first = rows = used_text = used_carried = start = 0

    def pending(stop: int) -> Cut:
        return Cut(first, rows, start, stop, used_text + used_carried)

    for g in range(metadata.num_row_groups):
        group = metadata.row_group(g)
        chunks = [group.column(c) for c in range(group.num_columns)]
        sizes = [(c.path_in_schema, c.total_uncompressed_size) for c in chunks]
        text_bytes = sum(s for path, s in sizes if any(_is_of(path, c) for c in texts))
        carried_bytes = sum(
            size for path, size in sizes if any(_is_of(path, name) for name in carried)
        )
        n = group.num_rows
        pieces = max(
            math.ceil(text_bytes / size.text_bytes),
            math.ceil(carried_bytes / size.carried_bytes),
            math.ceil(n / size.rows),
        )
        pieces = min(pieces, n)
        if pieces > 1:
            if rows:
                yield pending(g)
                first += rows
                rows = used_text = used_carried = 0
            bounds = [n * p // pieces for p in range(pieces + 1)]
            each = (text_bytes + carried_bytes) // pieces
            for low, high in pairwise(bounds):
                yield Cut(first + low, high - low, g, g + 1, each)
            first += n
            continue
        full = (
            used_text + text_bytes > size.text_bytes
            or used_carried + carried_bytes > size.carried_bytes
            or rows + n > size.rows
        )
        if rows and full:
            yield pending(g)
            first += rows
            rows = used_text = used_carried = 0
        if not rows:
            start = g
        rows += n
        used_text += text_bytes
        used_carried += carried_bytes
    if rows:
        yield pending(metadata.num_row_groups)
