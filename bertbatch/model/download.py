"""Local copies of models that are at a URL."""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from bertbatch.errors import JobError
from bertbatch.model.checkpoint import is_name
from bertbatch.model.onnx import BELOW, GRAPHS, WEIGHTS
from bertbatch.storage import stores
from bertbatch.storage.retry import retry
from bertbatch.storage.stores import FileInfo, Store, public
from bertbatch.units import digest

log = logging.getLogger("bertbatch")

VERSION = 16  # hexadecimal digits
MODULES = "modules.json"
UNFINISHED = ".unfinished-"


def download(
    url: str, version: str | None, options: dict[str, Any], patterns: Sequence[str]
) -> tuple[Path, str]:
    """The copy of a model's files on this machine, and its version, by their sizes and stamps.

    A `version` that was copied before is taken without asking the storage; None means what is
    there now. Raises JobError.
    """
    where = f"model.name {public(url)}"
    home = cache() / hashlib.sha256(url.encode()).hexdigest()[:VERSION]
    if version is not None and (home / version).is_dir():
        return home / version, version
    store, path = stores.connect(url, options)
    try:
        files = retry(partial(_files, store, path, patterns))
        if not {"config.json", MODULES, "adapter_config.json"} & set(files):
            raise JobError(f"{where}: there is no config.json; name the folder of a model")
        found = digest(sorted((name, f.size, f.stamp) for name, f in files.items()))[:VERSION]
        if version is not None and found != version:
            raise JobError(
                f"{where}: it is version {found} now, not {version}; has it changed since the job "
                "began, or is model.revision another model's?"
            )
        with _alone(home):  # processes that wait for the copy find it then
            if not (home / found).is_dir():
                _copy(store, files, home, found)
                log.info("%s is copied to %s", where, home / found)
    except (ValueError, KeyError, TypeError) as error:
        raise JobError(f"{where}: {MODULES} is not a list of modules: {error!r}") from error
    except OSError as error:
        raise JobError(f"{where}: cannot be copied to {home}: {public(error)}") from error
    return home / found, found


def cache() -> Path:
    """Where copies are kept: ~/.cache/bertbatch/models, or as XDG_CACHE_HOME says."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bertbatch" / "models"


def _files(store: Store, folder: str, patterns: Sequence[str]) -> dict[str, FileInfo]:
    names = _names(store, folder, patterns)
    if MODULES in names:  # an embedding model's layers have folders of their own
        modules = json.loads(store.read(f"{folder}/{MODULES}"))
        for below in {module["path"] for module in modules} - {""}:
            if not is_name(below):
                raise ValueError(f"{below!r} is no folder of the model's")
            names += [f"{below}/{name}" for name in _names(store, f"{folder}/{below}", patterns)]
    if not any(name.endswith(WEIGHTS) for name in names):
        names += _names(store, folder, GRAPHS)
        names += [f"{BELOW}/{name}" for name in _names(store, f"{folder}/{BELOW}", GRAPHS)]
    return {name: store.info(f"{folder}/{name}") for name in names}


def _names(store: Store, folder: str, patterns: Sequence[str]) -> list[str]:
    return [n for n in store.names(folder) if any(fnmatch(n, pattern) for pattern in patterns)]


def _copy(store: Store, files: dict[str, FileInfo], home: Path, version: str) -> None:
    """Copies all files, or nothing. Raises OSError."""
    for left in home.glob(f"{UNFINISHED}*"):  # by a process that died: no other copies now
        shutil.rmtree(left, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=home))
    try:
        for name, info in files.items():
            (unfinished / name).parent.mkdir(exist_ok=True)
            retry(partial(_copy_file, store, info, unfinished / name))
        unfinished.rename(home / version)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _copy_file(store: Store, info: FileInfo, target: Path) -> None:
    with store.open(info.path) as source, open(target, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
        copied = file.tell()
    if copied != info.size:
        raise OSError(f"{info.path} has {copied} bytes, and {info.size} were listed")


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Held by one process of this machine at a time."""
    home.mkdir(parents=True, exist_ok=True)
    with open(home / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
