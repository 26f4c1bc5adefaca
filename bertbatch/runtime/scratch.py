"""A temporary folder of one run: for its Ray, or for hashes of its texts.

It goes when the run ends. What a killed run has left goes when the next one starts: a lock tells
whose process lives, because the kernel lets go of it with the process.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

RAY, TEXTS = "bertbatch-ray-", "bertbatch-texts-"  # what names begin with


class Scratch:
    """Raises OSError if the folder cannot be made."""

    def __init__(self, prefix: str, root: Path):
        root.mkdir(parents=True, exist_ok=True)
        for old in root.glob(f"{prefix}*"):
            with suppress(OSError):  # its run lives, or Ray is still on its way out
                _remove_dead(old)
        self.path = tempfile.mkdtemp(prefix=prefix, dir=root)
        # Locked before it has its name: no other run finds it free between the two.
        unnamed = Path(self.path, "lock.new")
        self._lock = open(unnamed, "w")  # noqa: SIM115
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unnamed.rename(unnamed.with_name("lock"))

    def close(self, keep: bool) -> None:
        """Lets go of the folder; with `keep` it stays until the next run starts."""
        if not keep:
            with suppress(OSError):
                _remove(Path(self.path))
        self._lock.close()


def _remove_dead(folder: Path) -> None:
    """Removes a folder that no process holds. Raises OSError if it is held, or no such.

    Others may write to /tmp, too: a link is not followed, and no pipe is waited for.
    """
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return
    lock = os.open(folder / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(folder)
    finally:
        os.close(lock)


def _remove(folder: Path) -> None:
    """The lock last: what cannot go now is found again."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
    shutil.rmtree(folder)
