"""Where a Parquet file is cut: by the decoded size of its row groups.

The footer has a column chunk's encoded size, which is mostly near enough. But a dictionary,
shared prefixes or runs can expand a few kilobytes to gigabytes. So each cut also has an upper
bound on its decoded size: first by the footer, then by the longest entry of the dictionary. If
the bound is too large, the row group is measured by reading it in small pieces, which is rare.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bertbatch.inputs.formats.reader import CutSize
from bertbatch.job.input import Input
from bertbatch.units import Cut

MOST = 64 << 20  # decoded bytes that a cut may hold without being measured
MEASURED = 16 << 20  # decoded text in a measured cut: repeated texts cost little but memory

Open = Callable[..., pq.ParquetFile]  # with pyarrow's keywords
_PAGES = {"pre_buffer": False, "buffer_size": 1 << 16}  # reads no more of a chunk than is used

_WIDTH = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


@dataclass(frozen=True)
class _Leaf:
    """A requested column chunk: its encoded size, and at most its decoded size (`most`)."""

    path: str
    size: int
    values: int
    most: int
    is_text: bool
    has_dictionary: bool


@dataclass(frozen=True)
class _Sizes:
    """Rows, the encoded bytes of texts and of carried columns, the upper bound of both decoded."""

    rows: int = 0
    text: int = 0
    carried: int = 0
    most: int = 0

    def __add__(self, other: "_Sizes") -> "_Sizes":
        return _Sizes(
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


def cut_groups(open_: Open, size: CutSize, options: Input) -> Iterator[Cut]:
    """All rows as cuts: small row groups share one, large ones are divided."""
    metadata = open_().metadata
    first = start = 0
    open_cut = _Sizes()
    for g in range(metadata.num_row_groups):
        group = metadata.row_group(g)
        leaves = _leaves(group, options)
        sizes = _sizes(group.num_rows, leaves)
        pieces = sizes.pieces(size)
        if sizes.most > MOST * max(pieces, 1):
            leaves = [_looked_into(open_, g, leaf, pieces) for leaf in leaves]
            sizes = _sizes(group.num_rows, leaves)
        hides = sizes.most > MOST * max(pieces, 1)
        together = open_cut + sizes
        full = together.pieces(size) > 1 or together.most > MOST
        if open_cut.rows and (pieces > 1 or hides or full):
            yield _cut(first, start, g, open_cut)
            first, open_cut = first + open_cut.rows, _Sizes()
        if hides:
            for part in _measured(open_, g, leaves, sizes, size, options):
                yield _cut(first, g, g + 1, part)
                first += part.rows
        elif pieces > 1:
            bounds = [sizes.rows * p // pieces for p in range(pieces + 1)]
            each = replace(sizes, text=(sizes.text + sizes.carried) // pieces, carried=0)
            for low, high in pairwise(bounds):
                yield _cut(first + low, g, g + 1, replace(each, rows=high - low))
            first += sizes.rows
        else:
            start = start if open_cut.rows else g
            open_cut += sizes
    if open_cut.rows:
        yield _cut(first, start, metadata.num_row_groups, open_cut)


def _cut(first: int, start: int, stop: int, sizes: _Sizes) -> Cut:
    return Cut(first, sizes.rows, start, stop, sizes.text + sizes.carried)


def encoded_bytes(metadata: pq.FileMetaData, groups: Sequence[int], options: Input) -> int:
    """The encoded size of the requested columns in some row groups."""
    return sum(leaf.size for g in groups for leaf in _leaves(metadata.row_group(g), options))


def dictionary_texts(metadata: pq.FileMetaData, groups: Sequence[int], options: Input) -> list[str]:
    """The text columns that can be read as dictionaries of their distinct values."""
    can = [
        {leaf.path for leaf in _leaves(metadata.row_group(g), options) if leaf.has_dictionary}
        for g in groups
    ]
    return [name for name in options.text_columns if all(name in paths for paths in can)]


def _leaves(group: pq.RowGroupMetaData, options: Input) -> list[_Leaf]:
    texts, carried = set(options.text_columns), set(options.carried.values())
    chunks = [group.column(c) for c in range(group.num_columns)]
    return [
        _leaf(chunk, is_text)
        for names, is_text in ((texts, True), (carried - texts, False))
        for chunk in chunks
        if any(is_of(chunk.path_in_schema, name) for name in names)
    ]


def is_of(path: str, column: str) -> bool:
    """Whether a leaf's path belongs to a column, which may be nested or have dots in its name."""
    return path == column or path.startswith(f"{column}.")


def _leaf(chunk: pq.ColumnChunkMetaData, is_text: bool) -> _Leaf:
    size, values = chunk.total_uncompressed_size, chunk.num_values
    shares = "DELTA_BYTE_ARRAY" in chunk.encodings  # prefixes, each with the value before it
    packs = any("DICTIONARY" in encoding for encoding in chunk.encodings)
    width = _WIDTH.get(chunk.physical_type)
    if width is None:  # a value is at most as long as the chunk
        most = size + values * size if shares or packs else size
    else:
        most = max(size, values * width)
    can = packs and not shares and chunk.physical_type == "BYTE_ARRAY"
    return _Leaf(chunk.path_in_schema, size, values, most, is_text, can)


def _sizes(rows: int, leaves: list[_Leaf]) -> _Sizes:
    return _Sizes(
        rows,
        sum(leaf.size for leaf in leaves if leaf.is_text),
        sum(leaf.size for leaf in leaves if not leaf.is_text),
        sum(leaf.most for leaf in leaves),
    )


def _looked_into(open_: Open, group: int, leaf: _Leaf, pieces: int) -> _Leaf:
    """The leaf with a tighter bound: values outside the dictionary are stored in full."""
    if not leaf.has_dictionary or leaf.most <= MOST // 16 * max(pieces, 1):
        return leaf
    file = open_(read_dictionary=[leaf.path], **_PAGES)
    batch = next(file.iter_batches(1, row_groups=[group], columns=[leaf.path]), None)
    entries = _dictionary(batch.column(0)) if batch is not None else None
    if entries is None:
        return leaf
    longest = pc.max(pc.binary_length(entries)).as_py() or 0
    return replace(leaf, most=leaf.size + leaf.values * longest)


def _dictionary(array: pa.Array) -> pa.Array | None:
    """The dictionary of the only leaf of an array."""
    while not pa.types.is_dictionary(array.type):
        if pa.types.is_map(array.type) or not pa.types.is_nested(array.type):
            return None
        array = array.field(0) if pa.types.is_struct(array.type) else array.values
    return array.dictionary


def _measured(
    open_: Open, group: int, leaves: list[_Leaf], sizes: _Sizes, size: CutSize, options: Input
) -> Iterator[_Sizes]:
    """A row group in consecutive pieces, each within the limits by what was read."""
    texts = set(options.text_columns)
    file = open_(read_dictionary=[leaf.path for leaf in leaves if leaf.has_dictionary], **_PAGES)
    columns = dict.fromkeys([*options.text_columns, *options.carried.values()])
    known = [name for name in columns if name in file.schema_arrow.names]
    step = min(max(MEASURED * sizes.rows // (4 * sizes.most), 1), 8192)
    part = _Sizes()
    for batch in file.iter_batches(step, row_groups=[group], columns=known):
        held = [(name, _held(batch.column(name))) for name in known]
        more = _Sizes(
            batch.num_rows,
            sum(n for name, n in held if name in texts),
            sum(n for name, n in held if name not in texts),
        )
        together = part + more
        full = (
            together.text > max(size.text_bytes, MEASURED)
            or together.carried > size.carried_bytes
            or together.rows > size.rows
        )
        if part.rows and full:
            yield part
            part = _Sizes()
        part += more
    if part.rows:
        yield part


def _held(array: pa.Array) -> int:
    """The bytes of an array with its dictionaries written out."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary)
        return int(pc.sum(lengths.take(array.indices)).as_py() or 0)
    if pa.types.is_struct(kind):
        return sum(_held(child) for child in array.flatten())
    if pa.types.is_map(kind):
        return _held(array.keys) + _held(array.items)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _held(array.flatten())
    return int(array.nbytes)
