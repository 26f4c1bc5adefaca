"""Work that is shared among as many threads as torch uses."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
import torch

ALONE = 64  # rows that one thread computes without asking others for help


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="bertbatch-kernels")


def in_threads(
    count: int, some: Callable[[int, int], None], sizes: np.ndarray | None = None
) -> None:
    """Calls `some` for ranges that make up `count`, in as many threads as torch uses.

    `sizes` [count]: what each costs; equal if None.
    """
    threads = torch.get_num_threads()
    total = count if sizes is None else int(sizes.sum())
    if threads == 1 or total <= ALONE:
        some(0, count)
        return
    ends = np.arange(1, threads + 1) * total // threads
    edges = ends if sizes is None else np.searchsorted(np.cumsum(sizes), ends, "right")
    edges = np.concatenate([[0], edges])
    edges[-1] = count
    others = [
        _pool(threads - 1).submit(some, int(first), int(stop))
        for first, stop in pairwise(edges[1:])
    ]
    try:
        some(0, int(edges[1]))
    finally:
        for other in others:
            other.result()
