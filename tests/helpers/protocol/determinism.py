"""Stand-ins by which a writer's operations depend on its store's answers alone."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from tests.helpers.protocol.runs import pairs

attempts = SimpleNamespace(writer="", count=0)


def begin(writer: str) -> None:
    attempts.writer, attempts.count = writer, 0


def next_attempt() -> SimpleNamespace:
    attempts.count += 1
    return SimpleNamespace(hex=f"{attempts.writer}{attempts.count}")


class OneThread:
    """Instead of a thread pool: the order of a writer's operations must be its own."""

    def __init__(self, threads: int): ...

    def __enter__(self) -> "OneThread":
        return self

    def __exit__(self, *error: object) -> None: ...

    def map(self, function: Callable[[Any], Any], *items: Any) -> Iterator[Any]:
        return iter([function(*each) for each in zip(*items, strict=True)])


def encoded_once(encode: Callable[..., bytes]) -> Callable[..., bytes]:
    """The same bytes for the same content, as before, without the work of making them."""
    known: dict[str, bytes] = {}

    def look_up(table: pa.Table, *footer: dict[str, Any]) -> bytes:
        key = f"{pairs(table)} {footer}"
        if key not in known:
            known[key] = encode(table, *footer)
        return known[key]

    return look_up
