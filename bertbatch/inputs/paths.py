"""The files of a path: a single file, a folder with its subfolders, or a glob.

A file that is not listed would silently not be scored, so anything that prevents a complete list
is an error that names it. Links are followed. `listing` decides which of the files are read.
"""

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractFileSystem
from fsspec.utils import glob_translate

from bertbatch.storage.stores import FileInfo, Store, as_os_errors, is_glob, parse_info

_LINK_ABOVE = "a link to a folder that it is in"
_SPECIAL = "a pipe, a socket or a device"


@dataclass
class Found:
    """The files, sorted; `hidden` are the paths that begin with _ or ., which are not listed."""

    files: list[FileInfo] = field(default_factory=list)
    hidden: set[str] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)  # not regular files, by reason


@as_os_errors()
def find(store: Store, path: str) -> Found:
    """The files of a path: a file, a folder (with its subfolders) or a glob.

    A folder that a glob matches stands for all files in it. Raises FileNotFoundError if there
    is nothing at the path, other OSErrors if the list would be incomplete.
    """
    store.fs.invalidate_cache()
    if is_glob(path) and not (store.is_local and Path(path).exists()):
        root = path[: next(i for i, c in enumerate(path) if c in "*?[")].rpartition("/")[0]
        found = _matches(store, path, root)
    else:
        info = store.fs.info(path)
        if info["type"] == "directory":
            found = _all(store, path)
        elif info["type"] == "file":
            found = Found([parse_info(info)])
        else:
            raise OSError(f"{path} is {_SPECIAL}; write what comes out of it to a file")
    found.files.sort(key=lambda file: file.path)
    return found


def is_hidden(path: str) -> bool:
    """Whether a path relative to the input's root has a name in it that starts with _ or . ."""
    return any(part[:1] in ("_", ".") for part in path.split("/"))


def _all(store: Store, root: str) -> Found:
    if not _lists_whole(store.fs):
        return _Walk(store, root, None).found()
    return _sorted_out(store, root, store.fs.find(root, detail=True))


def _matches(store: Store, glob: str, root: str) -> Found:
    if not _lists_whole(store.fs):
        return _Walk(store, root, glob).found()
    entries = store.fs.glob(glob, detail=True)
    for name, info in list(entries.items()):
        if info["type"] == "directory":
            entries |= store.fs.find(name, detail=True)
    return _sorted_out(store, root, entries)


def _lists_whole(fs: Any) -> bool:
    """Whether a store lists whole folders itself; fsspec's default skips what it may not read."""
    if isinstance(fs, AsyncFileSystem):
        return type(fs)._find is not AsyncFileSystem._find
    return type(fs).find is not AbstractFileSystem.find


def _sorted_out(store: Store, root: str, entries: dict[str, dict[str, Any]]) -> Found:
    found = Found()
    for name, info in entries.items():
        relative = name.removeprefix(root).lstrip("/")
        if info["type"] != "file":
            continue
        if is_hidden(relative):
            parts = relative.split("/")
            first = next(i for i, part in enumerate(parts) if is_hidden(part))
            found.hidden.add("/".join((root, *parts[: first + 1])))
        else:
            found.files.append(parse_info(info))
    return found


class _Walk:
    """A walk through all of a folder, or through the parts of it that a glob may match."""

    def __init__(self, store: Store, root: str, glob: str | None):
        self._store, self._root = store, root
        self._match = _matcher(glob) if glob is not None else None
        self._steps = glob.removeprefix(root).lstrip("/").split("/") if glob is not None else []
        self._found = Found()

    def found(self) -> Found:
        start = (self._root or "/",)
        resolved = (os.path.realpath(self._root),) if self._store.is_local else ()
        folders: list[tuple[str, bool, tuple[str, ...]]] = [(*start, self._match is None, resolved)]
        while folders:
            folder, all_of_it, through = folders.pop()
            for entry in self._entries(folder):
                path = entry["name"].rstrip("/")
                if path == folder.rstrip("/"):
                    continue
                if is_hidden(path.rpartition("/")[2]):
                    self._found.hidden.add(path)
                    continue
                wanted = all_of_it or (self._match is not None and self._match(path))
                if not wanted and not (entry["type"] != "file" and self._may_hold(path)):
                    continue
                kind, entry = self._followed(entry, path)
                if kind == "directory":
                    if (inside := self._through(entry, path, folder, through)) is not None:
                        folders.append((path, wanted, inside))
                elif wanted and kind == "file":
                    self._found.files.append(self._file(entry, path))
                elif wanted:
                    self._found.left_out[_SPECIAL] += 1
        return self._found

    def _entries(self, folder: str) -> list[dict[str, Any]]:
        try:
            return list(self._store.fs.ls(folder, detail=True))
        except FileNotFoundError:
            if folder == self._root or not self._store.is_local:
                raise
            return []  # deleted since its own folder was listed
        except PermissionError:
            if folder.endswith("/lost+found"):  # every ext4 disk has one, and only root sees it
                return []
            raise

    def _may_hold(self, folder: str) -> bool:
        """Whether something below a folder may match the glob."""
        names = folder.removeprefix(self._root).lstrip("/").split("/")
        for name, step in zip(names, self._steps[:-1], strict=False):
            if "**" in step:
                return True
            if not _matcher(step)(name):
                return False
        return len(names) < len(self._steps)

    def _followed(self, entry: dict[str, Any], path: str) -> tuple[str, dict[str, Any]]:
        """The kind of an entry, and the entry itself; a link's target instead of the link."""
        if not (self._store.is_local and entry["type"] == "other"):
            return entry["type"], entry
        try:
            entry = {**self._store.fs.info(path), "linked": os.path.islink(path)}
        except OSError as error:
            if not os.path.islink(path):
                return "gone", entry
            raise OSError(f"{path} is a link that leads to nothing; repair or delete it") from error
        return entry["type"], entry

    def _through(
        self, entry: dict[str, Any], path: str, folder: str, through: tuple[str, ...]
    ) -> tuple[str, ...] | None:
        """The folders that links have led to, with this one; None if the link is a loop."""
        if not entry.get("linked"):
            return through
        target = os.path.realpath(path)
        here = (*through, os.path.realpath(folder))
        if any(f"{one}/".startswith(f"{target.rstrip('/')}/") for one in here):
            self._found.left_out[_LINK_ABOVE] += 1
            return None
        return (*here, target)

    def _file(self, entry: dict[str, Any], path: str) -> FileInfo:
        return parse_info(self._store.fs.info(path) if entry["size"] is None else entry)


def _matcher(glob: str) -> Callable[[str], Any]:
    if glob.startswith(("http:", "https:")):  # where ? begins a query
        glob = glob.replace("?", "[?]")
    return re.compile(glob_translate(glob)).match
