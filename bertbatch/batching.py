"""Lengths to batches under a token budget: rows of like length share a forward pass."""

from collections.abc import Iterator

import numpy as np


def batches(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Row indices of each batch, longest rows first.

    A batch of n rows costs n times its longest row, padding included, and stays within the
    budget; a row longer than the budget is a batch of its own. Every row is in exactly one
    batch.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        stop = start + max(budget // longest, 1)
        yield order[start:stop]
        start = stop


def padded(
    ids: np.ndarray, offsets: np.ndarray, rows: np.ndarray, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows as ids int64 [rows, longest], padded on the right, and mask of the same shape."""
    starts = offsets[rows]
    lengths = offsets[rows + 1] - starts
    columns = np.arange(max(int(lengths.max()), 1))
    mask = columns < lengths[:, None]
    out = np.full(mask.shape, pad_id, np.int64)
    out[mask] = ids[(starts[:, None] + columns)[mask]]
    return out, mask


def distinct(ids: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each distinct token sequence, and for each row which of those it equals.

    Returns first: int64 [distinct], inverse: int64 [rows], with first[inverse[r]] equal to r.
    """
    number: dict[bytes, int] = {}
    first: list[int] = []
    inverse = np.empty(len(offsets) - 1, np.int64)
    for row in range(len(inverse)):
        key = ids[offsets[row] : offsets[row + 1]].tobytes()
        known = number.setdefault(key, len(first))
        if known == len(first):
            first.append(row)
        inverse[row] = known
    return np.array(first, np.int64), inverse
