"""How the entities of a row differ from those that were written for it."""

from typing import Any

import numpy as np
import pyarrow as pa

from bertbatch.model.tokens import Answers
from bertbatch.tasks.single_label import activated


def different_entities(
    there: pa.ChunkedArray, now: pa.Array, answers: Answers, close: float
) -> str | None:
    """What is wrong with one row's stored entities, beside those of now and their answers.

    An entity may differ at a token whose two likeliest classes are about as likely.
    """
    (stored,), (found,) = there.to_pylist(), now.to_pylist()
    unsure = _unsure(answers, close)
    old, new = ({_place(e): e for e in row if not _touches(e, unsure)} for row in (stored, found))
    for place in sorted(old.keys() | new.keys(), key=str):
        mine, other = old.get(place), new.get(place)
        if mine is None or other is None or abs(mine["score"] - other["score"]) > close:
            return f"entity {mine} there, {other} now"
    return None


def _place(entity: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entity[key] for key in ("label", "start", "end", "text"))


def _unsure(answers: Answers, close: float) -> np.ndarray:
    """Where the tokens are whose class may be another in other arithmetic: int32 [n, 2]."""
    spans = answers.spans
    assert spans
    scores = np.sort(activated(answers.values, "softmax"), axis=1)
    narrow = np.full(len(scores), False)
    if scores.shape[1] > 1:
        narrow = scores[:, -1] - scores[:, -2] <= close
    narrow &= ~spans.special
    return np.stack([spans.starts[narrow], spans.ends[narrow]], axis=1)


def _touches(entity: dict[str, Any], places: np.ndarray) -> bool:
    """Whether an entity holds, or lies beside, one of these places."""
    near = (places[:, 0] <= entity["end"] + 1) & (places[:, 1] >= entity["start"] - 1)
    return bool(near.any())
