"""A folder on this machine's disk for Ray's sockets, logs and what it spills, for one run.

It goes when the run ends. What a killed run has left goes when the next one starts: a lock tells
whose process lives, because the kernel lets go of it with the process.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

PREFIX = "bertbatch-ray-"


class Scratch:
    def __init__(self) -> None:
        # As Ray does, not TMPDIR: the path of a socket may have 107 bytes at most.
        root = Path(os.environ.get("RAY_TMPDIR", "/tmp"))
        for old in root.glob(f"{PREFIX}*/lock"):
            # OSError: its run lives, or it is another user's, or Ray is still on its way out.
            with suppress(OSError), open(old) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(old.parent)
        self.path = tempfile.mkdtemp(prefix=PREFIX, dir=root)
        # Locked before it has its name: nobody finds it free between the two.
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


def _remove(folder: Path) -> None:
    """The lock last: what cannot go now is found again."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
    shutil.rmtree(folder)
