"""Batches of rows under a token budget.

Each row is in exactly one batch. A batch exceeds the budget only if it is a single row that is
longer.
"""

from collections.abc import Callable, Iterator
from enum import StrEnum

import numpy as np

# What decides which rows share a batch: bits of answers are compared only within one version.
VERSION = 2
FULL = 0.98  # of the budget, that even batches are planned to fill: rows rarely fit exactly
EVEN = 16  # up to so many batches are made even; beside more of them a small one does not matter
LARGE = 8192  # tokens per batch, from which on: on CPUs a small batch takes less time


class Batching(StrEnum):
    """Which rows may share a forward pass, the fastest way first."""

    PACKED = "packed"  # any rows, end to end without padding
    PADDED = "padded"  # any rows, padded to the longest
    EQUAL = "equal_length"  # rows of the same length, without padding
    SINGLE = "single"  # each row alone


def packed_batches(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Row indices of each batch; the sum of its lengths is at most the budget.

    Best fit by length: the longest remaining row opens a batch, then the longest rows that
    still fit fill it. Rows of the same length are neighbours in a batch. A few large batches are
    even: a small last one would cost a GPU as much time as a full one.
    """
    rows, values, counts, starts = _by_length(lengths)
    left = int(lengths.sum())
    planned = -(-left // max(int(budget * FULL), 1))
    even = planned <= EVEN and budget >= LARGE
    while (counts > 0).any():
        planned = max(planned, -(-left // budget))
        gap = size = min(-(-left // planned), budget) if even else budget
        batch: list[np.ndarray] = []
        for i in np.flatnonzero(counts):
            count = min(int(counts[i]), gap // int(values[i]))
            if not batch:
                count = max(count, 1)
            if count:
                batch.append(rows[starts[i] : starts[i] + count])
                starts[i] += count
                counts[i] -= count
                gap -= count * int(values[i])
            if gap < values[-1]:
                break
        left -= size - gap
        planned -= 1
        yield np.concatenate(batch)


def padded_batches(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Row indices of each batch; its rows times the longest of them is at most the budget.

    Rows of equal length come first where they fill a batch, since such a batch needs no mask.
    The other rows follow, longest first.
    """
    rows, values, counts, starts = _by_length(lengths)
    left = []
    for value, count, start in zip(values, counts, starts, strict=True):
        fit = max(budget // int(value), 1)
        full = start + count // fit * fit
        yield from (rows[i : i + fit] for i in range(start, full, fit))
        left.append(rows[full : start + count])
    rest = np.concatenate(left) if left else rows
    start = 0
    while start < len(rest):
        stop = start + max(budget // int(lengths[rest[start]]), 1)
        yield rest[start:stop]
        start = stop


def equal_batches(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Row indices of each batch, whose rows have the same length."""
    rows, values, counts, starts = _by_length(lengths)
    for value, count, start in zip(values, counts, starts, strict=True):
        fit = max(budget // int(value), 1)
        stop = start + count
        yield from (rows[i : min(i + fit, stop)] for i in range(start, stop, fit))


def single_batches(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Row indices of each batch: one row, the longest first."""
    yield from _by_length(lengths)[0][:, None]


SPLITS: dict[Batching, Callable[[np.ndarray, int], Iterator[np.ndarray]]] = {
    Batching.PACKED: packed_batches,
    Batching.PADDED: padded_batches,
    Batching.EQUAL: equal_batches,
    Batching.SINGLE: single_batches,
}


def _by_length(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows longest first; each distinct length, its count, and where its rows start."""
    rows = np.argsort(-lengths, kind="stable")
    values, starts, counts = np.unique(-lengths[rows], return_index=True, return_counts=True)
    return rows, -values, counts, starts


def padded(flat: np.ndarray, mask: np.ndarray, filler: int) -> np.ndarray:
    """Rows that lie end to end as int64 in the shape of their mask (see `real_places`)."""
    out = np.full(mask.shape, filler, np.int64)
    out[mask] = flat
    return out


def real_places(lengths: np.ndarray, left: bool) -> np.ndarray:
    """Which places of padded rows hold tokens, bool [rows, longest]; `left`: after the padding."""
    longest = int(lengths.max())
    place = np.arange(longest)
    mask: np.ndarray
    mask = place >= longest - lengths[:, None] if left else place < lengths[:, None]
    return mask
