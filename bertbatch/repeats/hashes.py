"""Hashes by which equal texts are known."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import pyarrow as pa

SIZE = 16  # bytes: of 10^12 different texts, two have one hash with a chance below 10^-14
KIND = pa.binary(SIZE)
_BETWEEN = b"\xff"  # in no text, since no UTF-8 has it


def text_hashes(texts: Sequence[str], pair_texts: Sequence[str]) -> pa.Array:
    """A hash of each text, or of each pair: BLAKE2b (RFC 7693) over its UTF-8."""
    encoded: Iterator[bytes] = map(_utf8, texts)
    if pair_texts:
        encoded = map(_BETWEEN.join, zip(encoded, map(_utf8, pair_texts), strict=True))
    joined = b"".join(blake2b(text, digest_size=SIZE).digest() for text in encoded)
    return pa.Array.from_buffers(KIND, len(texts), [None, pa.py_buffer(joined)])


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
