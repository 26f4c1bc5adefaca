"""Checks the shape of records that are read back from an output.

Anyone who can write to an output can change them, and a disk can damage them. Code that uses a
record may rely on its shape. The shapes themselves are defined where they are used.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bertbatch.errors import JobError

MOST = 1 << 62  # of any count
# What reading a file of another kind, or a part of one, may raise.
_DAMAGE = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError),
    *(EOFError, gzip.BadGzipFile, zlib.error),
)


def count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST


def number(value: Any) -> bool:
    # Compared, because a JSON number may be no number, or endless.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def text(value: Any) -> bool:
    return isinstance(value, str)


def small(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 5000


def row(*shapes: Any) -> Callable[[Any], bool]:
    """A list with one value for each shape."""

    def check(value: Any) -> bool:
        right = isinstance(value, list) and len(value) == len(shapes)
        return right and all(map(fits, value, shapes))

    return check


def fits(value: Any, shape: Any) -> bool:
    """Whether plain data has a shape: a check; None; {key: shape}, with `key?` for one that may be
    absent and `*` for each that is not named; [shape of each]; a tuple of alternatives."""
    if shape is None:
        return value is None
    if isinstance(shape, str):
        return bool(value == shape)
    if isinstance(shape, tuple):
        return any(fits(value, one) for one in shape)
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(inner, shape[0]) for inner in value)
    if not isinstance(shape, dict):
        return bool(shape(value))
    if not isinstance(value, dict):
        return False
    named = {key.rstrip("?"): inner for key, inner in shape.items() if key != "*"}
    if any(key not in value for key in shape if key != "*" and not key.endswith("?")):
        return False
    rest = shape.get("*", lambda _: True)
    return all(fits(inner, named.get(key, rest)) for key, inner in value.items())


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns errors over a damaged record into a JobError that names its file."""
    try:
        yield
    except _DAMAGE as error:
        raise JobError(f"{path} is damaged, or not bertbatch's: {error}") from error


def to_json(record: dict[str, Any]) -> bytes:
    """A record as it is stored. What is no Unicode, as in names of files, is escaped."""
    data = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    return data.encode(errors="backslashreplace")
