"""The bytes of a text file, decompressed; those of UTF-16 as UTF-8.

For every format whose files are text, such as CSV. What a record is, the format says.
"""

import codecs
import gzip
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import BinaryIO, cast

import pyarrow as pa

from bertbatch.errors import SourceError, first_line
from bertbatch.inputs.formats.content import HEAD, advice, what_it_is
from bertbatch.inputs.formats.parallel import THREADS, ahead
from bertbatch.job.input import Input
from bertbatch.registry import CODECS
from bertbatch.storage import stores
from bertbatch.units import Source

BLOCK = 8 << 20
WIDE = ("utf-16", "utf-16-le", "utf-16-be")
Read = Callable[[int], bytes]


@dataclass(frozen=True)
class ByteStream:
    """An open file: offsets count the bytes as they are given out.

    `fetch` returns the bytes from `start` to `stop`, fewer at the end of the stream; only in
    order, if `forward`. `format` is the format's name in error messages, `encoding` that of the
    bytes given out.
    """

    source: Source
    format: str
    encoding: str
    fetch: Callable[[int, int], bytes]
    forward: bool

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
        if kind is not None:
            raise SourceError(
                self.source.id,
                f"cannot be read as {self.format}: what it holds is {kind}; "
                f"{advice(kind, self.format)}",
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
        if self.forward:
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
    name = source.path.lower()
    return next((codec for end, codec in CODECS.items() if name.endswith(end)), None)


def is_stream(source: Source) -> bool:
    """Whether everything before a place in the file is read again to reach it."""
    return compression(source) is not None or source.url.partition(":")[0] in stores.ARCHIVES


@contextmanager
def open_stream(source: Source, options: Input, format: str, encoding: str) -> Iterator[ByteStream]:
    """Opens a file. Any error while it is open is raised as SourceError."""
    store, path = stores.connect(source.url, options.storage_options)
    codec = compression(source)

    def fetch(start: int, stop: int) -> bytes:
        stop = min(stop, source.size)
        return store.read(path, start, stop) if start < stop else b""

    try:
        # Only what may begin with a byte order mark is looked at: a request, on object stores.
        start = fetch(0, 4) if encoding == "utf-8" else b""
        if not (codec or store.is_archive or _is_wide(encoding, start)):
            yield ByteStream(source, format, encoding, fetch, forward=False)
            return
        with store.open(path) as file, _decompressed(file, codec, source, format) as stream:
            head = stream.read(4)
            if _is_wide(encoding, head):
                how = encoding if encoding in WIDE else "utf-16"
                read, encoding = _narrow(head, stream.read, how), "utf-8"
            else:
                read = _with_head(head, stream.read)
            yield ByteStream(source, format, encoding, _forward(read), forward=True)
    except SourceError:
        raise
    except Exception as error:  # a broken file makes the storage or the codec raise anything
        raise SourceError(source.id, f"cannot be read as {format}: {first_line(error)}") from error


def _is_wide(encoding: str, head: bytes) -> bool:
    """Whether a text is UTF-16, as it is said to be or begins with a byte order mark."""
    marked = head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and head[2:4] != b"\0\0"
    return encoding in WIDE or (encoding == "utf-8" and marked)


def _with_head(head: bytes, read: Read) -> Read:
    """Reads bytes that were read before, then the rest."""

    def again(size: int) -> bytes:
        nonlocal head
        given, head = head, b""
        return given or read(size)

    return again


def _narrow(head: bytes, read: Read, encoding: str) -> Read:
    """Reads UTF-16 as UTF-8. What is no character becomes no valid UTF-8, so that its row is bad.

    Raises UnicodeDecodeError if the text ends within a character.
    """
    decoder = codecs.getincrementaldecoder(encoding)(errors="surrogatepass")
    left = head

    def narrow(size: int) -> bytes:
        nonlocal left
        while True:
            more = read(max(size, 1 << 16))
            text = decoder.decode(left + more, final=not more)
            left = b""
            if text or not more:
                return text.encode(errors="surrogatepass")

    return narrow


def _decompressed(
    file: BinaryIO, codec: str | None, source: Source, format: str
) -> AbstractContextManager[BinaryIO]:
    """The decompressed stream of a file; a damaged file raises at the end, at the latest."""
    if codec is None:
        return nullcontext(file)
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


def _forward(read: Read) -> Callable[[int, int], bytes]:
    """`fetch` of a stream that can only be read forward; skipped bytes are read, too.

    `read` gives some bytes, of about the size that it is asked for, or none at the end.
    """
    at = 0
    left = b""  # was read, and not given out yet

    def fetch(start: int, stop: int) -> bytes:
        nonlocal at, left
        parts = []
        while at < stop and (part := left or read(min(stop - at, 1 << 20))):
            before = max(min(start - at, len(part)), 0)
            used = part[before : stop - at]
            left = part[before + len(used) :]
            at += before + len(used)
            if used:
                parts.append(used)
        return b"".join(parts)

    return fetch
