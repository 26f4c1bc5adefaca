"""Records that are read back: of a known shape, or one sentence that names the file.

Whoever can write to an output can change them, and a disk can break them; what is done with a
record may rely on its shape.
"""

import gzip
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


def few(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 5000


def row(*shapes: Any) -> Callable[[Any], bool]:
    """A list of so many values, each of its shape."""

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
    """Whatever is wrong with the record that is read inside is a JobError that names it."""
    try:
        yield
    except _DAMAGE as error:
        raise JobError(f"{path} is damaged, or not bertbatch's: {error}") from error


# What is relied on of the records, see folder.py.
CONTRACT = {
    "format_version": count,
    "model": {
        "weights": text,
        "tokenizer": text,
        "quantization": (None, text),
        "max_length": count,
    },
    "schema": text,
    "attention?": (
        None,
        {"layers": few, "heads": few, "statistics": {"*": number}, "queries": text},
    ),
}
RUN = {
    **{"exit_code": count, "rows_per_second": number, "failed_sources": {"*": row(text, text)}},
    **{"date?": text, "began?": text, "alarms?": [text]},
    "this_run": {
        **dict.fromkeys(("rows_scored", "rows_quarantined", "truncated"), count),
        "labels": {"*": count},
    },
    "chosen?": {
        "kinds?": {
            "*": {
                "engine": ("torch", "openvino"),
                "dtype": ("float32", "bfloat16", "float16", "int8"),
                **{
                    "tokens_per_batch": count,
                    "measured": {"*": number},
                    "reason?": text,
                    "slower?": number,
                },
                "batching?": ("packed", "padded", "equal_length", "single"),
            }
        }
    },
}
