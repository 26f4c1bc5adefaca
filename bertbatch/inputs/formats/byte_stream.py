"""The bytes of a text file, decompressed.

For every format whose files are text, such as CSV. What a record is, the format says.
"""

import gzip
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

import pyarrow as pa

from bertbatch.errors import SourceError, first_line
from bertbatch.inputs.formats.content import HEAD, advice, what_it_is
from bertbatch.inputs.formats.parallel import THREADS, ahead
from bertbatch.job.input import Input
from bertbatch.storage import stores
from bertbatch.units import Source

BLOCK = 8 << 20
_CODECS = {".gz": "gzip", ".zst": "zstandard"}


@dataclass(frozen=True)
class ByteStream:
    """An open file: offsets count the bytes after decompression.

    `fetch` returns the bytes from `start` to `stop`, fewer at the end of the stream. A
    compressed file can only be fetched in order. `format` is the format's name in error
    messages, `encoding` that of the text.
    """

    source: Source
    format: str
    encoding: str
    fetch: Callable[[int, int], bytes]

    def blocks(self) -> Iterator[bytes]:
        """The whole stream. Raises SourceError if it does not begin as text does."""
        blocks = self._blocks()
        first = next(blocks, b"")
        self.check_head(first)
        yield first
        yield from blocks

    def check_head(self, head: bytes) -> None:
        """Raises SourceError if the first bytes are those of another kind of file."""
        kind = what_it_is(head[:HEAD])
        if kind is not None and not self.encoding.upper().startswith(kind):
            raise SourceError(
                self.source.id,
                f"cannot be read as {self.format}: what it holds is {kind}; {advice(kind)}",
            )

    def lines_before(self, offsets: list[int]) -> list[int]:
        """How many lines end before each of some ascending offsets, of a stream just opened."""
        counts, count, at, before = [], 0, 0, b""
        for offset in offsets:
            while at < offset and (block := self.fetch(at, min(at + BLOCK, offset))):
                divided = before == b"\r" and block[:1] == b"\n"
                count += block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n") - divided
                at, before = at + len(block), block[-1:]
            counts.append(count)
        return counts

    def _blocks(self) -> Iterator[bytes]:
        """The blocks in order. Several blocks of a plain file are read at once."""
        if compression(self.source):
            at = 0
            while block := self.fetch(at, at + BLOCK):
                yield block
                at += len(block)
            return
        with ThreadPoolExecutor(THREADS) as pool:
            starts = range(0, self.source.size, BLOCK)
            yield from ahead(pool, lambda at: self.fetch(at, at + BLOCK), starts, THREADS)


def compression(source: Source) -> str | None:
    """How a file is compressed, by the end of its name; None for a plain file."""
    return next((codec for end, codec in _CODECS.items() if source.url.lower().endswith(end)), None)


@contextmanager
def open_stream(source: Source, options: Input, format: str, encoding: str) -> Iterator[ByteStream]:
    """Opens a file. Any error while it is open is raised as SourceError."""
    store, path = stores.connect(source.url, options.storage_options)
    codec = compression(source)

    def fetch(start: int, stop: int) -> bytes:
        stop = min(stop, source.size)
        return store.read(path, start, stop) if start < stop else b""

    try:
        if codec is None:
            yield ByteStream(source, format, encoding, fetch)
        else:
            with store.open(path) as file, _decompressed(file, codec, source, format) as stream:
                yield ByteStream(source, format, encoding, _forward(stream))
    except SourceError:
        raise
    except Exception as error:  # a broken file makes the storage or the codec raise anything
        raise SourceError(source.id, f"cannot be read as {format}: {first_line(error)}") from error


def _decompressed(
    file: BinaryIO, codec: str, source: Source, format: str
) -> AbstractContextManager[BinaryIO]:
    """The decompressed stream of a file; a damaged file raises at the end, at the latest."""
    head = file.read(HEAD)
    file.seek(0)
    if head and (kind := what_it_is(head) or "not compressed") != codec:
        raise SourceError(
            source.id,
            f"cannot be read as {format}: its name says {codec}, but it is {kind}; rename it",
        )
    if codec == "gzip":  # Arrow's reader rejects the zeros that tapes and tar append
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    return cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))


def _forward(stream: BinaryIO) -> Callable[[int, int], bytes]:
    """`fetch` of a stream that can only be read forward; skipped bytes are read, too."""
    at = 0

    def fetch(start: int, stop: int) -> bytes:
        nonlocal at
        while at < start:
            skipped = len(stream.read(min(start - at, 1 << 20)))
            at += skipped
            if not skipped:
                return b""
        parts = []
        while at < stop and (part := stream.read(stop - at)):
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    return fetch
