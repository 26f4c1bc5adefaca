"""Makes a PNG smaller: the same picture in at most 256 colours.

The format is https://www.w3.org/TR/png-3/: rows of bytes, each predicted from its neighbours by one
of five filters (section 9), compressed by zlib.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
STEP = 4  # colours are rounded to multiples of this


def with_palette(png: bytes) -> bytes:
    """A PNG with a palette, of one with 8 bits for each of red, green and blue."""
    pixels = decode(png)
    height, width, _ = pixels.shape
    rounded = np.minimum(np.rint(pixels / STEP) * STEP, 255).astype(np.uint8).reshape(-1, 3)
    colours, index, counts = np.unique(rounded, axis=0, return_inverse=True, return_counts=True)
    kept = np.argsort(-counts, kind="stable")[:256]
    far = colours[:, None].astype(int) - colours[kept].astype(int)
    nearest = (far**2).sum(-1).argmin(1).astype(np.uint8)[index].reshape(height, width)
    rows = np.insert(nearest, 0, 0, axis=1)  # no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    palette = colours[kept].tobytes()
    chunks = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(rows.tobytes(), 9)))
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in (*chunks, (b"IEND", b"")))


def decode(png: bytes) -> np.ndarray:
    """The pixels of a PNG with 8 bits for each of red, green and blue: uint8 [height, width, 3]"""
    chunks = list(_chunks(png))
    width, height, depth, kind = struct.unpack(">IIBB", chunks[0][1][:10])
    if (depth, kind) != (8, 2):
        raise ValueError("no PNG with 8 bits for each of red, green and blue")
    raw = zlib.decompress(b"".join(data for name, data in chunks if name == b"IDAT"))
    lines = np.frombuffer(raw, np.uint8).reshape(height, 1 + 3 * width)
    above = np.zeros((width, 3), int)
    rows = []
    for filtered in lines:
        above = _unfiltered(filtered[0], filtered[1:].reshape(width, 3).astype(int), above)
        rows.append(above)
    return np.array(rows, np.uint8)


def _unfiltered(kind: int, line: np.ndarray, above: np.ndarray) -> np.ndarray:
    """One row, from its filter, its filtered bytes and the row above."""
    if kind == 0:
        return line
    if kind == 1:
        return np.asarray(line.cumsum(0) % 256)
    if kind == 2:
        return np.asarray((line + above) % 256)
    out = np.zeros_like(line)
    left = corner = np.zeros(3, int)
    for x, (value, up) in enumerate(zip(line, above, strict=True)):
        guess = (left + up) // 2 if kind == 3 else _paeth(left, up, corner)
        left = out[x] = (value + guess) % 256
        corner = up
    return out


def _paeth(left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Whichever of the three is nearest to left + up − corner."""
    away = [abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)]
    return np.asarray(np.choose(np.argmin(away, axis=0), [left, up, corner]))


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(SIGNATURE)
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        at += 12 + size


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
