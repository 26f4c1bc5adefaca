"""Files on a disk, or a file system that is mounted like one: written whole, created only once.

Disks differ in what they can do: see `_publish`. What a path means is `stores.py`'s.
"""

import ctypes
import errno
import os
import platform
import uuid
from contextlib import suppress
from pathlib import Path

# What a file system answers that does not know a call, as opposed to one that fails in it: EBADF,
# EISDIR and EACCES come from fsync of a folder over SMB, EMLINK where a file has one name only.
_UNSUPPORTED = {
    *(errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES),
    *(errno.EBADF, errno.EISDIR, errno.EMLINK, errno.ENOTTY),
}
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
# Where the C library is older than the call: its number by processor. Linux' syscall tables.
_RENAMEAT2 = {
    **dict.fromkeys(("x86_64", "amd64"), 316),
    **dict.fromkeys(("aarch64", "arm64", "riscv64"), 276),
    **{"ppc64le": 357, "s390x": 347},
}


class NoCreate(OSError):
    """The file system cannot create a file only if it is absent: no commit is possible."""


def create(target: Path, data: bytes) -> None:
    """Puts a whole file if there is none. Raises FileExistsError if there is one."""
    temporary = _write_beside(target, data)
    try:
        _publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


def replace(target: Path, data: bytes) -> None:
    """Puts a whole file, whether or not there is one."""
    os.replace(_write_beside(target, data), target)


def try_out(folder: Path) -> None:
    """Creates a file, and once more, and removes it: in the folder, or the nearest that is there.

    Raises OSError if a run could not commit in the folder.
    """
    target = _nearest(folder) / f".{uuid.uuid4().hex}.tmp"
    try:
        create(target, b"")
        with suppress(FileExistsError):
            create(target, b"")
            raise NoCreate(errno.ENOTSUP, "this file system creates a file twice", str(folder))
    finally:
        with suppress(OSError):
            target.unlink(missing_ok=True)


def closed(folder: Path) -> str | None:
    """Why a folder cannot be written, or made, as far as the system tells without trying."""
    there = _nearest(folder)
    if not there.is_dir():
        return f"{there} is a file"
    return None if os.access(there, os.W_OK | os.X_OK) else f"no right to write in {there}"


def _nearest(folder: Path) -> Path:
    """The folder, links followed, or what is there that it would be made in."""
    there = Path(os.path.realpath(folder))
    while not os.path.exists(there) and there != there.parent:
        there = there.parent
    return there


def _write_beside(target: Path, data: bytes) -> Path:
    """A temporary file in the target's folder, on disk before this returns.

    Its name starts with a dot, so that no reader of the folder takes it for a part.
    """
    # The folder that a link means, so that one which leads to none yet is followed. `mkdir` says
    # of a file in its way that it exists, which would be taken for the target's being there.
    folder = os.path.realpath(target.parent)
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "a file is in its way", folder) from error
    temporary = target.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _publish(temporary: Path, target: Path) -> None:
    """Gives a file its name in one step that fails if the name is taken.

    By a hard link, or on Linux, where a file system has none, by a rename that does not replace.
    """
    try:
        os.link(temporary, target)
        return
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        no_link = error
    try:
        _rename_new(temporary, target)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES) or error.errno not in _UNSUPPORTED:
            raise
        raise NoCreate(
            no_link.errno,
            "this file system has neither hard links nor a rename that does not replace, and "
            "without one of them a part could be committed twice; if it is a bucket mounted as a "
            "folder, name the store's own URL instead (s3://…, gs://…), else another disk",
            str(target.parent),
        ) from error


def _rename_new(old: Path, new: Path) -> None:
    """rename(2) that raises FileExistsError if the new name is taken."""
    arguments = (_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), _RENAME_NOREPLACE)
    library = ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "renameat2"):
        failed = library.renameat2(*arguments)
    elif platform.system() == "Linux" and platform.machine() in _RENAMEAT2:
        failed = library.syscall(_RENAMEAT2[platform.machine()], *arguments)
    else:
        raise OSError(errno.ENOSYS, "no renameat2 on this system")
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(new))


def _sync_folder(folder: Path) -> None:
    """So that the file's name survives a power cut; SMB, FUSE and others keep it without."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return
        raise
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(number)
