"""How often a step on a storage is tried, with which pauses.

Every retry of a storage's operation goes through here. What is retried must be safe to repeat.
"""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from bertbatch.storage.local_disk import NoCreate

TRIES = 5
PAUSE_SECONDS = 0.5  # after the first try; each later pause is twice as long, 7.5 s in all
T = TypeVar("T")


def is_permanent(error: Exception) -> bool:
    """Whether the storage refuses access, which no further try would change."""
    return isinstance(error, PermissionError | NoCreate) or (
        isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS)
    )


def retry(
    step: Callable[[], T],
    gives_up: Callable[[Exception], bool] = is_permanent,
    pause: float = PAUSE_SECONDS,
) -> T:
    """Runs a step until it succeeds. Raises the last error, or one for which `gives_up` is true."""
    for earlier in range(TRIES - 1):
        try:
            return step()
        except Exception as error:
            if gives_up(error):
                raise
        time.sleep(pause * 2**earlier)
    return step()


def create_once(create: Callable[[], None]) -> bool:
    """Runs a create-if-absent until it succeeds; false if there is such a file already.

    That may be our own, if only the reply of an earlier try was lost.
    """
    try:
        retry(create, lambda error: isinstance(error, FileExistsError) or is_permanent(error))
    except FileExistsError:
        return False
    return True
