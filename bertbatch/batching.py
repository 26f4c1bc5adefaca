"""Lengths to batches under a token budget, for engines that pack and for those that pad.

In both, every row is in exactly one batch, and no batch is over the budget but that of a
single row which is longer.
"""

from collections.abc import Iterator

import numpy as np


def packed_batches(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Row indices of each batch, whose lengths sum up to the budget at most.

    Best fit by length: the longest row that is left opens a batch, then the longest that
    still fit fill it. Rows of one length are neighbours in a batch.
    """
    rows, values, counts, starts = _by_length(lengths)
    while (counts > 0).any():
        gap = budget
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
        yield np.concatenate(batch)


def padded_batches(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Row indices of each batch, whose rows times its longest row are the budget at most.

    Rows of exactly equal length come first where they fill a batch, which then needs no
    mask; the others follow, longest first.
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


def _by_length(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows longest first; each length among them, its count, and where its rows start."""
    rows = np.argsort(-lengths, kind="stable")
    values, starts, counts = np.unique(-lengths[rows], return_index=True, return_counts=True)
    return rows, -values, counts, starts


def gather(ids: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The token ids of some rows, end to end."""
    lengths = offsets[rows + 1] - offsets[rows]
    ends = np.cumsum(lengths)
    shift = np.repeat(offsets[rows] - ends + lengths, lengths)
    taken: np.ndarray = ids[np.arange(ends[-1]) + shift]
    return taken


def padded(ids: np.ndarray, lengths: np.ndarray, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows laid end to end as ids int64 [rows, longest], padded on the right, and their mask."""
    mask = np.arange(int(lengths.max())) < lengths[:, None]
    out = np.full(mask.shape, pad_id, np.int64)
    out[mask] = ids
    return out, mask


def segments(mask: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Token types int64 [rows, longest] of padded rows whose second texts start at `seconds`."""
    place = np.arange(mask.shape[1])
    return (mask & (place >= seconds[:, None])).astype(np.int64)


def twins(ids: np.ndarray, offsets: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """For each row the first one with the same token ids, split into texts alike: int64 [rows]."""
    first: dict[tuple[int, bytes], int] = {}
    raw, bounds, splits = ids.tobytes(), (offsets * ids.itemsize).tolist(), seconds.tolist()
    return np.fromiter(
        (
            first.setdefault((splits[i], raw[bounds[i] : bounds[i + 1]]), i)
            for i in range(len(offsets) - 1)
        ),
        np.int64,
        len(offsets) - 1,
    )
