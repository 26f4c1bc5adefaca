"""Writes whole files to a disk, or a file system that is mounted like one.

File systems differ in how a file can be created only once: see `_publish`. What a URL means is
decided in `stores.py`.
"""

import ctypes
import errno
import os
import platform
import uuid
from contextlib import suppress
from pathlib import Path

# Errors of a file system that does not support a call, as opposed to one in which it fails: EBADF,
# EISDIR and EACCES come from fsync of a folder over SMB, EMLINK where a file has one name only.
_UNSUPPORTED = {
    *(errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES),
    *(errno.EBADF, errno.EISDIR, errno.EMLINK, errno.ENOTTY),
}
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
# The number of the system call by processor, for C libraries that lack it. From Linux' tables.
_RENAMEAT2 = {
    **dict.fromkeys(("x86_64", "amd64"), 316),
    **dict.fromkeys(("aarch64", "arm64", "riscv64"), 276),
    **{"ppc64le": 357, "s390x": 347},
}


class NoCreate(OSError):
    """The file system cannot create a file only if it is absent: no commit is possible."""


def create(target: Path, data: bytes) -> None:
    """Creates a whole file if there is none. Raises FileExistsError if there is one."""
    temporary = _write_beside(target, data)
    try:
        _publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


def replace(target: Path, data: bytes) -> None:
    """Writes a whole file, whether or not there is one."""
    os.replace(_write_beside(target, data), target)


def try_out(folder: Path) -> None:
    """Creates a file twice and removes it: in the folder, or its nearest existing parent.

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
    """Why a folder cannot be written or made, by its permissions; None if they allow it."""
    there = _nearest(folder)
    if not there.is_dir():
        return f"{there} is a file"
    return None if os.access(there, os.W_OK | os.X_OK) else f"no permission to write in {there}"


def _nearest(folder: Path) -> Path:
    """The folder with links resolved, or its nearest parent that exists."""
    there = Path(os.path.realpath(folder))
    while not os.path.exists(there) and there != there.parent:
        there = there.parent
    return there


def _write_beside(target: Path, data: bytes) -> Path:
    """A temporary file in the target's folder, on disk before this returns.

    Its name starts with a dot, so that readers of the folder ignore it.
    """
    # Links are resolved, so that the folder is made where a dangling link points. If a file is in
    # its way, `mkdir` raises FileExistsError, which would mean that the target exists.
    folder = os.path.realpath(target.parent)
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "a file is in its place", folder) from error
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
            "folder, name the store's own URL instead (s3://…, gs://…), otherwise use another disk",
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
    """Makes the file's name survive a power cut. SMB, FUSE and others cannot, and need not."""
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
