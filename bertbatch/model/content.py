"""The tokens of whole texts, without special ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from bertbatch.model.spans import Spans, join_spans


@dataclass(frozen=True)
class Content:
    """The tokens of n texts without special ones: ids int32 [total], offsets int64 [n + 1].

    `spans`: where they are in the texts, if the model's task needs that.
    """

    ids: np.ndarray
    offsets: np.ndarray
    spans: Spans | None = None


def content_of(rows: list[list[int]]) -> Content:
    offsets = np.append(0, np.cumsum([len(row) for row in rows])).astype(np.int64)
    return Content(np.fromiter(chain.from_iterable(rows), np.int32, int(offsets[-1])), offsets)


def joined_content(pieces: list[Content]) -> Content:
    lengths = np.concatenate([np.diff(piece.offsets) for piece in pieces])
    spans = [piece.spans for piece in pieces if piece.spans is not None]
    return Content(
        np.concatenate([piece.ids for piece in pieces]),
        np.append(0, np.cumsum(lengths)),
        join_spans(spans) if spans else None,
    )


def portions(texts: list[str], most: int) -> Iterator[list[str]]:
    """Consecutive texts of at most so many characters, or one that is longer; of none, none."""
    some: list[str] = []
    size = 0
    for text in texts:
        if some and size + len(text) > most:
            yield some
            some, size = [], 0
        some.append(text)
        size += len(text)
    if some or not texts:
        yield some
