"""Cuts of a file whose rows lie in groups, as Parquet's row groups or Arrow's record batches.

A cut is some whole groups, or a part of one. How large a group is, the format says.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from bertbatch.errors import SourceError
from bertbatch.inputs.formats.reader import CutSize
from bertbatch.units import Cut, Source


@dataclass(frozen=True)
class Sizes:
    """Rows, the encoded bytes of texts and of carried columns, the upper bound of both decoded."""

    rows: int = 0
    text: int = 0
    carried: int = 0
    most: int = 0

    def __add__(self, other: "Sizes") -> "Sizes":
        return Sizes(
            rows=self.rows + other.rows,
            text=self.text + other.text,
            carried=self.carried + other.carried,
            most=self.most + other.most,
        )

    def pieces(self, size: CutSize) -> int:
        """Into how many cuts it has to be divided, by the encoded size."""
        n = max(
            math.ceil(self.text / size.text_bytes),
            math.ceil(self.carried / size.carried_bytes),
            math.ceil(self.rows / size.rows),
        )
        return min(n, self.rows)


def cuts_of(
    groups: Iterable[tuple[Sizes, Iterable[Sizes] | None]], size: CutSize, most: float = math.inf
) -> Iterator[Cut]:
    """All rows as cuts: small groups share one, large ones are divided.

    Each group comes with its size, or with the sizes of the parts that it is to be divided into.
    No more than `most` decoded bytes of groups share a cut.
    """
    first = start = stop = 0
    open_cut = Sizes()
    for g, (sizes, parts) in enumerate(groups):
        pieces = sizes.pieces(size)
        together = open_cut + sizes
        full = together.pieces(size) > 1 or together.most > most
        if open_cut.rows and (pieces > 1 or parts is not None or full):
            yield _cut(first, start, g, open_cut)
            first, open_cut = first + open_cut.rows, Sizes()
        if parts is None and pieces <= 1:
            start, stop = start if open_cut.rows else g, g + 1
            open_cut = open_cut + sizes
            continue
        for part in _divided(sizes, pieces) if parts is None else parts:
            yield _cut(first, g, g + 1, part)
            first += part.rows
    if open_cut.rows:
        yield _cut(first, start, stop, open_cut)


def _divided(sizes: Sizes, pieces: int) -> Iterator[Sizes]:
    """A group in parts of equally many rows."""
    bounds = [sizes.rows * p // pieces for p in range(pieces + 1)]
    each = replace(sizes, text=(sizes.text + sizes.carried) // pieces, carried=0)
    for low, high in pairwise(bounds):
        yield replace(each, rows=high - low)


def _cut(first: int, start: int, stop: int, sizes: Sizes) -> Cut:
    return Cut(first, sizes.rows, start, stop, sizes.text + sizes.carried)


def tables_of(
    batches: Iterator[pa.RecordBatch],
    position: int,
    schema: pa.Schema,
    source: Source,
    cuts: Sequence[Cut],
) -> Iterator[pa.Table]:
    """The rows of each cut, from batches that begin at the row `position` of the source.

    Raises SourceError if there are fewer than planned.
    """
    names = schema.names
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
                taken.append(batch.slice(skipped, used).select(names))
            if skipped + used < batch.num_rows:
                rest.append(batch.slice(skipped + used))
        yield pa.Table.from_batches(taken, schema=schema.with_metadata(None))


def held_bytes(array: pa.Array) -> int:
    """The bytes of an array with its dictionaries written out."""
    kind = array.type
    if pa.types.is_dictionary(kind) and not _is_bytes(kind.value_type):
        return held_bytes(array.dictionary_decode())
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary)
        return int(pc.sum(lengths.take(array.indices)).as_py() or 0)
    if pa.types.is_struct(kind):
        return sum(held_bytes(child) for child in array.flatten())
    if pa.types.is_map(kind):
        return held_bytes(array.keys) + held_bytes(array.items)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return held_bytes(array.flatten())
    return int(array.nbytes)


def _is_bytes(kind: pa.DataType) -> bool:
    """Whether Arrow tells how long each value is."""
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    )  # fmt: skip
