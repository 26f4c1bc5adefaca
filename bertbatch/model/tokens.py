"""Token ids of many texts, end to end; a model's answers to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bertbatch.model.spans import Spans


@dataclass(frozen=True)
class Batch:
    """Rows that an engine scores in one forward pass.

    ids: int32 [total], the rows' token ids end to end. lengths: int64 [rows]. pair_starts: int64
    [rows] and types: int8 [total] as in `Tokens`. with_statistics: attention statistics are wanted.
    """

    ids: np.ndarray
    lengths: np.ndarray
    pair_starts: np.ndarray
    types: np.ndarray | None = None
    with_statistics: bool = False


@dataclass(frozen=True)
class Tokens:
    """Token ids of n sequences, special tokens included; `spans`: where they are, if needed.

    `parts`: which sequences are one row's, None if each is a row.

    ids: int32 [total], offsets: int64 [n + 1], truncated: bool [n], unknown: int32 [n]
    counts unknown tokens, content: int32 [n] counts tokens that are not special.
    pair_starts: int64 [n], where the second text of a pair starts; the length for a single text.
    types: int8 [total], the token types that the tokenizer gives; None if it gives none.
    first_duplicate: int64 [n], the first text with the same ids. sampled: bool [n], the rows whose
    attention statistics are wanted.
    """

    ids: np.ndarray
    offsets: np.ndarray
    pair_starts: np.ndarray
    truncated: np.ndarray
    unknown: np.ndarray
    content: np.ndarray
    types: np.ndarray | None
    first_duplicate: np.ndarray
    sampled: np.ndarray
    spans: "Spans | None" = None
    parts: "Parts | None" = None
    selection: int = 0  # what says which rows of their unit these are

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def row(self) -> np.ndarray:
        """The row of each sequence, int64 [n]."""
        return self.parts.row if self.parts else np.arange(len(self.offsets) - 1)

    def sequences(self, first: int, stop: int) -> tuple[int, int]:
        """The sequences of the rows from `first` to `stop`."""
        if self.parts is None:
            return first, stop
        return int(self.parts.offsets[first]), int(self.parts.offsets[stop])

    def take(self, rows: np.ndarray, with_statistics: bool = False) -> Batch:
        """Some rows as a batch, in this order."""
        at = places(self.offsets, rows)
        types = None if self.types is None else self.types[at]
        return Batch(
            self.ids[at], self.lengths[rows], self.pair_starts[rows], types, with_statistics
        )

    def repeated(self, rows: np.ndarray) -> "Tokens":
        """The tokens of texts that are these, each as often as it is named."""
        batch = self.take(rows)
        offsets = np.append(0, np.cumsum(batch.lengths))
        return Tokens(
            ids=batch.ids,
            offsets=offsets,
            pair_starts=batch.pair_starts,
            truncated=self.truncated[rows],
            unknown=self.unknown[rows],
            content=self.content[rows],
            types=batch.types,
            first_duplicate=first_duplicate(batch.ids, offsets, batch.pair_starts),
            sampled=self.sampled[rows],
            spans=self.spans and self.spans.take(rows),
        )


@dataclass(frozen=True)
class Padding:
    """How a model's tokenizer pads rows: with which id and token type, whether on the left."""

    id: int
    type: int
    left: bool


@dataclass(frozen=True)
class Parts:
    """Which sequences are one row's: int64 [rows + 1]; how long each is: int64 [sequences]."""

    offsets: np.ndarray
    lengths: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Sequences of each row."""
        return np.diff(self.offsets)

    @property
    def row(self) -> np.ndarray:
        """The row of each sequence."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.counts)

    def take(self, rows: np.ndarray) -> "Parts":
        """Those of some rows (indices, or bool for each), in this order."""
        rows = np.arange(len(self.offsets) - 1)[rows]
        offsets = np.append(0, np.cumsum(self.counts[rows]))
        return Parts(offsets, self.lengths[places(self.offsets, rows)])

    def sums(self, values: np.ndarray) -> np.ndarray:
        """The sum over each row's sequences, in the type of the values."""
        return np.asarray(np.add.reduceat(values, self.offsets[:-1], dtype=values.dtype))

    def largest(self, values: np.ndarray) -> np.ndarray:
        """The place of each row's first sequence with the largest value."""
        return first_largest(values, self.offsets[:-1], self.row)


@dataclass(frozen=True)
class Answers:
    """`values` float32 [n, …] has an entry for each row.

    Or it has one for each token, special ones included: then `offsets` int64 [rows + 1] says where
    each row's begin and end, and `spans` where in their texts the tokens are, if that is known.
    `parts`: which of these rows are one row of the output, if several are.
    """

    values: np.ndarray
    offsets: np.ndarray | None = None
    spans: "Spans | None" = None
    parts: Parts | None = None

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def take(self, rows: np.ndarray) -> "Answers":
        """The answers to some rows (indices, or bool for each row), in this order."""
        if self.offsets is None:
            return Answers(self.values[rows])
        rows = np.arange(len(self))[rows]
        lengths = np.diff(self.offsets)[rows]
        values = self.values[places(self.offsets, rows)]
        return Answers(values, np.append(0, np.cumsum(lengths)))

    def finite(self, precision: str = "float32") -> np.ndarray:
        """Whether all of a row's numbers are finite in this precision: bool [rows]."""
        with np.errstate(over="ignore"):
            fine = np.isfinite(self.values.astype(precision))
        fine = fine.all(axis=tuple(range(1, fine.ndim)))
        if self.offsets is None:
            return np.asarray(fine)
        bad = np.append(0, np.cumsum(~fine))
        return np.asarray(np.diff(bad[self.offsets]) == 0)


def joined(pieces: Sequence[Answers], shape: tuple[int, ...], per_token: bool) -> Answers:
    """The rows of all pieces, in order; `shape` is that of one entry of `values`."""
    values = [np.empty((0, *shape), np.float32)]
    lengths = [np.zeros(1, np.int64)]
    for piece in pieces:
        if not len(piece):
            continue
        values.append(piece.values)
        if piece.offsets is not None:
            lengths.append(np.diff(piece.offsets))
    offsets = np.cumsum(np.concatenate(lengths)) if per_token else None
    return Answers(np.concatenate(values), offsets)


def first_largest(values: np.ndarray, begins: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The place of the first largest value in each group; `group` says whose each value is."""
    largest = np.maximum.reduceat(values, begins) if len(begins) else values
    places = np.flatnonzero(values == largest[group])
    return np.asarray(places[np.unique(group[places], return_index=True)[1]])


def places(offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Where the tokens of some rows are in arrays that hold those of all rows end to end."""
    return ranges(offsets[rows], offsets[rows + 1] - offsets[rows])


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Each start and the numbers after it, as many as its count says, end to end."""
    ends = np.cumsum(counts)
    shift = np.repeat(starts - ends + counts, counts)
    found: np.ndarray = np.arange(len(shift)) + shift
    return found


def first_duplicate(ids: np.ndarray, offsets: np.ndarray, pair_starts: np.ndarray) -> np.ndarray:
    """For each row the first with the same token ids and pair start: int64 [rows]."""
    first: dict[tuple[int, bytes], int] = {}
    raw, bounds, splits = ids.tobytes(), (offsets * ids.itemsize).tolist(), pair_starts.tolist()
    return np.fromiter(
        (
            first.setdefault((splits[i], raw[bounds[i] : bounds[i + 1]]), i)
            for i in range(len(offsets) - 1)
        ),
        np.int64,
        len(offsets) - 1,
    )
