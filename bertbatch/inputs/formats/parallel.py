"""Work in threads whose results come in order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

THREADS = min(8, os.cpu_count() or 1)
A = TypeVar("A")
B = TypeVar("B")


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[A], B], items: Iterable[A], window: int
) -> Iterator[B]:
    """The results of `work` in order, with up to `window` more under way in the pool."""
    waiting: deque[Future[B]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > window:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
