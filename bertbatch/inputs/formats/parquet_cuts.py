"""Where a Parquet file is cut: by the decoded size of its row groups.

The footer has a column chunk's encoded size, which is mostly near enough. But a dictionary,
shared prefixes or runs can expand a few kilobytes to gigabytes. So each cut also has an upper
bound on its decoded size: first by the footer, then by the longest entry of the dictionary. If
the bound is too large, the row group is measured by reading it in small pieces, which is rare.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bertbatch.inputs.formats.columns import Columns
from bertbatch.inputs.formats.group_cuts import Sizes, cuts_of, held_bytes
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


def cut_groups(open_: Open, size: CutSize, options: Input) -> Iterator[Cut]:
    """All rows as cuts: small row groups share one, large ones are divided."""
    return cuts_of(_groups(open_, size, options), size, MOST)


def _groups(
    open_: Open, size: CutSize, options: Input
) -> Iterator[tuple[Sizes, Iterator[Sizes] | None]]:
    """The size of each row group; its parts, if only measuring it tells how large they are."""
    metadata = open_().metadata
    for g in range(metadata.num_row_groups):
        group = metadata.row_group(g)
        leaves = _leaves(group, options)
        sizes = _sizes(group.num_rows, leaves)
        most = MOST * max(sizes.pieces(size), 1)
        if sizes.most > most:
            leaves = [_looked_into(open_, g, leaf, sizes.pieces(size)) for leaf in leaves]
            sizes = _sizes(group.num_rows, leaves)
        hides = sizes.most > most
        yield sizes, _measured(open_, g, leaves, sizes, size, options) if hides else None


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


def _sizes(rows: int, leaves: list[_Leaf]) -> Sizes:
    return Sizes(
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
    open_: Open, group: int, leaves: list[_Leaf], sizes: Sizes, size: CutSize, options: Input
) -> Iterator[Sizes]:
    """A row group in consecutive pieces, each within the limits by what was read."""
    texts = set(options.text_columns)
    file = open_(read_dictionary=[leaf.path for leaf in leaves if leaf.has_dictionary], **_PAGES)
    columns = dict.fromkeys([*options.text_columns, *options.carried.values()])
    known = Columns.of(columns, file.schema_arrow)
    step = min(max(MEASURED * sizes.rows // (4 * sizes.most), 1), 8192)
    part = Sizes()
    for batch in file.iter_batches(step, row_groups=[group], columns=known.leaves):
        held = [(name, held_bytes(known.picked(batch).column(name))) for name in known.paths]
        more = Sizes(
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
            part = Sizes()
        part += more
    if part.rows:
        yield part
