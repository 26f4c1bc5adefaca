"""One interface to every storage, through fsspec: read files, create one only if it is absent.

Everything that differs between local disks and object stores is handled here, so that the commit
protocol can be written once.
"""

import io
import os
import re
import tarfile
import threading
import weakref
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.core import url_to_fs

from bertbatch.errors import JobError
from bertbatch.storage import local_disk
from bertbatch.storage.ranges import BUFFER, RangeFile, read_range
from bertbatch.storage.retry import retry

_CONDITIONAL_PUT = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")
_LOCAL = ("file", "local")
ARCHIVES = ("zip", "tar", "libarchive")
SMALL = 1 << 18  # bytes of a stored file that is read whole when it is opened
_memory_lock = threading.Lock()


@contextmanager
def as_os_errors() -> Iterator[None]:
    """Turns whatever a store's client raises into an OSError."""
    try:
        yield
    except PermissionError:
        _forget_clients()
        raise
    except OSError:
        raise
    except Exception as error:  # botocore's and other clients' errors are of any type
        _forget_clients()
        raise OSError(f"{type(error).__name__}: {public(error)}") from error


def _forget_clients() -> None:
    """Lets the next use of an object store read the credentials of the environment again.

    fsspec keeps one client for equal options, and so the credentials that it found or missed.
    """
    for protocol in _CONDITIONAL_PUT:
        if protocol in fsspec.registry:
            fsspec.registry[protocol].clear_instance_cache()


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A listed file: its path in its file system, size in bytes, etag or modification time."""

    path: str
    size: int
    stamp: str
    modified: float | None  # seconds since the epoch


@dataclass(frozen=True)
class Store:
    """A file system with the options to reach it; cheap to send to another process."""

    protocol: str
    options: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        return fsspec.filesystem(self.protocol, **self.options)  # fsspec keeps one instance

    @property
    def is_local(self) -> bool:
        return self.protocol in _LOCAL

    @property
    def is_archive(self) -> bool:
        """Whether its files can only be read from their beginning."""
        return self.protocol in ARCHIVES

    @property
    def creates_conditionally(self) -> bool:
        return self.protocol in (*_CONDITIONAL_PUT, *_LOCAL, "memory")

    @as_os_errors()
    def open(self, path: str, buffered: bool = True) -> BinaryIO:
        """A file opened for reading, seekable. Unbuffered is for callers that read large pieces."""
        if self.is_local or self.is_archive:
            fs = self.fs
            opened = cast(BinaryIO, fs.open(path, "rb"))
            weakref.finalize(opened, id, fs)  # fsspec closes an archive that nobody refers to
            return opened
        size = self.info(path).size
        if size <= SMALL and "http" not in self.fs.protocol:
            # One request. Some servers send the checksum of the whole file with a part of it.
            data = self.fs.cat_file(path)
            if len(data) != size:
                raise OSError(f"{path}: asked for its {size:,} bytes, got {len(data):,}")
            return io.BytesIO(data)
        file = RangeFile(self.fs, path, size)
        return cast(BinaryIO, io.BufferedReader(file, BUFFER) if buffered else file)

    @as_os_errors()
    def read(self, path: str, start: int | None = None, stop: int | None = None) -> bytes:
        """All bytes of a file, or exactly those of a range."""
        if start is not None and stop is not None:
            return read_range(self.fs, path, start, stop)
        return cast(bytes, self.fs.cat_file(path, start=start, end=stop))

    @as_os_errors()
    def info(self, path: str) -> FileInfo:
        self.fs.invalidate_cache(self.fs._parent(path))
        return parse_info(self.fs.info(path))

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder; false also if that cannot be found out."""
        try:
            return bool(self.fs.isdir(path))
        except Exception:  # of any type, by a store's client: no permission to look
            return False

    @as_os_errors()
    def names(self, folder: str) -> list[str]:
        """The names of the files in a folder, sorted; empty if there is no such folder.

        Names that start with a dot are left out: a local create is still writing them, or its
        process died.
        """
        self.fs.invalidate_cache(folder)
        try:
            entries = self.fs.ls(folder, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (e["name"].rsplit("/", 1)[-1] for e in entries if e["type"] == "file")
        return sorted(name for name in names if not name.startswith("."))

    @as_os_errors()
    def below(self, folder: str) -> list[str]:
        """The paths of all files in a folder and its subfolders; empty if there is none."""
        self.fs.invalidate_cache(folder)
        return cast(list[str], self.fs.find(folder))

    def temporary(self, folder: str) -> list[str]:
        """The names of temporary files of local creates, unfinished or left by dead processes."""
        if not self.is_local or not Path(folder).is_dir():
            return []
        return sorted(path.name for path in Path(folder).glob(".*.tmp"))

    @as_os_errors()
    def create(self, path: str, data: bytes) -> None:
        """Creates a whole file if there is none, in one step that only one writer can win.

        Raises FileExistsError if there is one. After any other OSError it is unknown whether the
        file was created.
        """
        if self.is_local:
            local_disk.create(Path(path), data)
        elif self.protocol == "memory":
            with _memory_lock:
                if self.fs.exists(path):
                    raise FileExistsError(path)
                self.fs.pipe_file(path, data)
        elif self.protocol in _CONDITIONAL_PUT:
            self._put_if_absent(path, data)
        else:
            if self.fs.exists(path):
                raise FileExistsError(path)
            self.fs.pipe_file(path, data)

    def _put_if_absent(self, path: str, data: bytes) -> None:
        # One request, however large (a store's limit is 5 GB): above its chunk size s3fs
        # would upload in pieces, and not every store completes those atomically.
        whole = {"chunksize": len(data) + 1} if self.protocol in ("s3", "s3a") else {}

        def put() -> None:
            try:
                self.fs.pipe_file(path, data, mode="create", **whole)
            except Exception as error:
                if _says(error, "PreconditionFailed", 412):
                    raise FileExistsError(path) from error
                raise

        # In conflict with another put of the same name: the store asks to try again.
        conflict = ("ConditionalRequestConflict", 409)
        retry(put, lambda e: isinstance(e, FileExistsError) or not _says(e, *conflict), pause=0.1)

    @as_os_errors()
    def replace(self, path: str, data: bytes) -> None:
        """Writes a whole file, whether or not there is one; never visible half-written."""
        if self.is_local:
            local_disk.replace(Path(path), data)
        else:
            self.fs.pipe_file(path, data)

    @as_os_errors()
    def delete(self, path: str) -> None:
        """Deletes a file, if there is one."""
        with suppress(FileNotFoundError):
            self.fs.rm_file(path)


def connect(url: str, options: dict[str, Any] | None = None) -> tuple[Store, str]:
    """The store of a URL and the path in it. `${NAME}` in options is an environment variable.

    Raises JobError for a protocol that is unknown or whose package is not installed, and for an
    environment variable that is not set.
    """
    if "\0" in url:
        raise JobError(f"{url!r}: a path cannot contain a NUL character; remove it")
    given = expand(options or {})
    protocol = url.split("://", 1)[0] if "://" in url else "file"
    if protocol in ("s3", "s3a"):
        # Cached listings would miss parts that another process has just committed.
        given.setdefault("use_listings_cache", False)
    try:
        if protocol == "file" and "://" not in url:  # so that `::` in a name stays as it is
            local = fsspec.filesystem("file", **given)
            return Store("file", given), local._strip_protocol(url).rstrip("/") or "/"
        fs, path = url_to_fs(url, **given)
    except ImportError as error:
        extra = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}.get(protocol)
        advice = f"pip install 'bertbatch[{extra}]'" if extra else str(error)
        raise JobError(f"{url}: cannot reach {protocol}:// storage: {advice}") from error
    except (ValueError, TypeError) as error:
        raise JobError(f"{url}: {public(error)}; are the storage_options right?") from error
    except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:  # opening an archive
        raise JobError(f"{public(url)}: {public(error)}") from error
    name = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    if "::" in url:  # what it goes through is among the file system's own options
        given = dict(fs.storage_options)
    return Store(name, given), path.rstrip("/") or "/"


def url_of(given: str, store: Store, path: str) -> str:
    """The URL of a file of the store that was connected to as `given`."""
    if store.is_local:
        return path
    if "::" not in given:
        return str(store.fs.unstrip_protocol(path))
    # zip://a.csv::s3://b/x.zip, where the first part names the file; in simplecache::s3://b/x
    # the second does.
    parts = given.split("::")
    named = next(i for i, part in enumerate(parts) if "://" in part)
    parts[named] = f"{parts[named].partition('://')[0]}://{path}"
    if "://" not in parts[-1]:
        parts[-1] = os.path.abspath(parts[-1])
    return "::".join(parts)


def is_glob(path: str) -> bool:
    return any(c in path for c in "*?[")


def expand(options: dict[str, Any]) -> dict[str, Any]:
    """Storage options with each `${NAME}` replaced. Raises JobError if one is not set."""
    return {key: _expand(value) for key, value in options.items()}


def _expand(value: Any) -> Any:
    if isinstance(value, dict):
        return expand(value)
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise JobError(
                f"storage_options: the environment variable {name} is not set; set it and try again"
            )
        return os.environ[name]

    return re.sub(r"\$\{(\w+)\}", lookup, value)


def parse_info(info: dict[str, Any]) -> FileInfo:
    """A file's entry in a store's listing. Raises OSError if it has no size."""
    if info["size"] is None:
        raise OSError(
            f"{info['name']}: its server does not say how large it is, so it cannot be read in "
            "parts; copy it to a disk or an object store"
        )
    modified = info.get("mtime") or info.get("LastModified") or info.get("created")
    for key in ("updated", "last_modified"):
        modified = modified or info.get(key)
    if isinstance(modified, str):
        modified = datetime.fromisoformat(modified)
    seconds = modified.timestamp() if isinstance(modified, datetime) else modified
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash") or info.get("CRC")
    stamp = str(etag).strip('"') if etag else f"{int((seconds or 0) * 1e6)}"
    return FileInfo(info["name"], int(info["size"]), stamp, seconds)


def public(message: object) -> str:
    """A message without the passwords in its URLs, such as an endpoint's or a proxy's."""
    return re.sub(r"://\S*@", "://…@", str(message))


def _says(error: BaseException | None, condition: str, status: int) -> bool:
    """Whether the error, or one that it was raised from, has this condition or HTTP status."""
    while error is not None:
        response = getattr(error, "response", None)
        # The status not anywhere in the text: other numbers may have the same digits.
        codes = [str(getattr(error, name, "")) for name in ("code", "status", "status_code")]
        if isinstance(response, dict):
            codes.append(str(response.get("ResponseMetadata", {}).get("HTTPStatusCode")))
        text = f"{type(error).__name__} {codes} {response} {error}"
        if str(status) in codes or condition in text:
            return True
        error = error.__cause__ or error.__context__
    return False
