"""The sample of rows whose attention statistics are computed."""

import hashlib
from collections.abc import Sequence

import numpy as np


def sampled(
    sources: Sequence[str], source: np.ndarray, row: np.ndarray, share: float
) -> np.ndarray:
    """Which rows are in a sample, bool [rows], by a hash of each row's source and number.

    `source` [rows] are indices into `sources`. The hash mixes as SplitMix64 ends: Steele,
    Lea & Flood 2014, https://doi.org/10.1145/2660193.2660195, figure 16.
    """
    if share == 1:
        return np.ones(len(row), bool)
    seeds = [hashlib.blake2b(id_.encode(), digest_size=8).digest() for id_ in sources]
    x = np.array([int.from_bytes(seed, "little") for seed in seeds], np.uint64)[source]
    x = x + row.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    chosen: np.ndarray = x < np.uint64(int(share * 2**64))
    return chosen
