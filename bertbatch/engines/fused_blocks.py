"""How Triton kernels divide the sequences of a packed batch into blocks of queries."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

# Of heads: a matrix product takes no smaller one, and of larger ones registers spill.
SIZES = (16, 32, 64)


@dataclass(frozen=True)
class Launch:
    """How a kernel runs: tokens of a block, keys at a time, warps, stages of its pipeline."""

    rows: int
    keys: int
    warps: int
    stages: int
    precision: str


def blocks_of(
    lengths: np.ndarray, pair_starts: np.ndarray, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """The blocks int32 [blocks, 4] as `fused_kernels.py` reads them, and their ends by sequence."""
    each = -(-lengths // rows)
    ends = np.append(0, np.cumsum(each))
    first = (np.arange(ends[-1]) - np.repeat(ends[:-1], each)) * rows
    of_sequence = (np.cumsum(lengths) - lengths, lengths, pair_starts)
    start, length, second = (np.repeat(x, each) for x in of_sequence)
    return np.stack([start, length, first, second], 1).astype(np.int32), ends.astype(np.int32)


def alike(*tensors: Tensor) -> list[Tensor]:
    """Each [tokens, heads, size] with its heads end to end, all with the same stride of tokens."""
    size = tensors[0].shape[2]
    strides = {x.stride() for x in tensors}
    if len(strides) == 1 and next(iter(strides))[1:] == (size, 1):
        return list(tensors)
    return [x.contiguous() for x in tensors]
