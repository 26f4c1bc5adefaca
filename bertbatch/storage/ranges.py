"""Reads ranges of a stored file's bytes, each checked against what was asked for.

A server may answer a request for a range with the whole file, or with less if the file was cut off
meanwhile: taken for the range, those bytes would be other rows. How a store is reached is in
`stores.py`.
"""

import io
from typing import Any, cast

BUFFER = 4 << 20  # bytes that a stream over a network asks for at a time


def read_range(fs: Any, path: str, start: int, stop: int) -> bytes:
    """Exactly these bytes of a file. Raises OSError if the store gives any others."""
    if start == stop:
        return b""
    http = "http" in fs.protocol
    data = _read_http(fs, path, start, stop) if http else fs.cat_file(path, start=start, end=stop)
    if len(data) != stop - start:
        raise OSError(
            f"asked for {stop - start:,} bytes from {start:,} on, got {len(data):,}: the file has "
            "changed since it was listed, or its server does not support range requests; copy it "
            "to a disk or an object store"
        )
    return cast(bytes, data)


def _read_http(fs: Any, path: str, start: int, stop: int) -> bytes:
    """Reads by fsspec's file, which checks that the answer is a part; its cat_file does not.

    A server that compresses its answers cannot send a part of one, so it is asked not to.
    """
    headers = {**fs.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
    with fs.open(path, size=stop, cache_type="none", headers=headers) as file:
        try:
            file.seek(start)
            return cast(bytes, file.read(stop - start))
        except ValueError as error:
            raise OSError(
                "its server does not support range requests (it ignores Range); copy the file to a "
                "disk or an object store"
            ) from error


class RangeFile(io.RawIOBase):
    """A seekable stored file of a known size. Errors are the store's."""

    def __init__(self, fs: Any, path: str, size: int):
        super().__init__()
        self._fs, self._path, self._size = fs, path, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._size)
        data = read_range(self._fs, self._path, self._at, max(stop, self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
