"""Token classification: the entities that a text names, with where they are.

Tokens become entities as in transformers' pipeline, `aggregation_strategy`
(https://huggingface.co/docs/transformers/main_classes/pipelines).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokens import Answers, Parts, first_largest
from bertbatch.tasks.single_label import activated

ENTITY = pa.struct(
    [
        pa.field("label", pa.string()),
        pa.field("start", pa.int32()),
        pa.field("end", pa.int32()),
        pa.field("text", pa.string()),
        pa.field("score", pa.float32()),
    ]
)
OUTSIDE = "O"  # the class of tokens that belong to no entity


class TokenClassification:
    """Entities by their likeliest classes: B-x begins an entity x, I-x or x goes on with it."""

    def __init__(self, spec: ModelSpec):
        self.shape = (len(spec.labels),)
        self._aggregation = spec.asked.aggregation
        tags = [n[2:] if n.startswith(("B-", "I-")) else n for n in spec.labels]
        self._tags = np.unique(tags, return_inverse=True)[1]
        self._begins = np.array([name.startswith("B-") for name in spec.labels])
        self._names = np.array([name.split("-", 1)[-1] for name in spec.labels], object)
        self.fields = [pa.field("entities", pa.list_(ENTITY), nullable=False)]

    def columns(self, answers: Answers) -> list[pa.Array]:
        spans = answers.spans
        assert spans
        kept = ~spans.special
        scores = activated(answers.values[kept], "softmax")
        row = np.repeat(np.arange(len(answers)), np.diff(spans.offsets))[kept]
        starts, ends = spans.starts[kept], spans.ends[kept]
        first = _firsts(row) | spans.apart[kept]
        if self._aggregation != "simple":  # words instead of tokens
            begins = np.flatnonzero(first | ~spans.continues[kept])
            scores = _of_words(scores, begins, self._aggregation)
            row, starts, first = row[begins], starts[begins], first[begins]
            ends = ends[_lasts(begins, len(ends))]
        best, score = scores.argmax(1), scores.max(1, initial=0)
        joins = ~first & ~self._begins[best]
        joins[1:] &= self._tags[best[1:]] == self._tags[best[:-1]]
        begins = np.flatnonzero(~joins)
        last = _lasts(begins, len(best))
        counts = last - begins + 1
        score = np.add.reduceat(score, begins) / counts if len(begins) else score
        names = self._names[best[begins]]
        found = _Found(row[begins], names, starts[begins], ends[last], score)
        found = found.take(np.flatnonzero(names != OUTSIDE))
        texts = spans.texts
        if answers.parts:
            found = _merged(found, answers.parts)
            texts = [texts[first] for first in answers.parts.offsets[:-1]]
        return [_entities(found, texts)]

    def labelled(self, columns: list[pa.Array]) -> tuple[np.ndarray, pa.Array]:
        """Each row with each label of its entities once."""
        rows = np.repeat(np.arange(len(columns[0])), np.diff(columns[0].offsets.to_numpy()))
        labels = columns[0].flatten().field("label").dictionary_encode()
        codes = labels.indices.to_numpy()
        each = np.unique(np.stack([rows, codes]), axis=1)
        names = labels.dictionary.take(pa.array(each[1]))
        return each[0], names


@dataclass(frozen=True)
class _Found:
    """Entities of the rows of `Answers`, in their order; each array has one value for each."""

    row: np.ndarray
    names: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    score: np.ndarray

    def take(self, places: np.ndarray) -> _Found:
        return _Found(
            self.row[places],
            self.names[places],
            self.starts[places],
            self.ends[places],
            self.score[places],
        )


def _firsts(row: np.ndarray) -> np.ndarray:
    """Which tokens are the first of their row."""
    first = np.ones(len(row), bool)
    first[1:] = row[1:] != row[:-1]
    return first


def _lasts(begins: np.ndarray, count: int) -> np.ndarray:
    """The last place of each group that begins at these places."""
    return np.asarray(np.append(begins[1:], count)[: len(begins)] - 1)


def _of_words(scores: np.ndarray, begins: np.ndarray, aggregation: str) -> np.ndarray:
    """The scores [words, classes] of words whose tokens begin at these places."""
    if aggregation == "first" or not len(begins):
        return np.asarray(scores[begins])
    counts = _lasts(begins, len(scores)) - begins + 1
    if aggregation == "average":
        return np.asarray(np.add.reduceat(scores, begins, axis=0) / counts[:, None])
    word = np.repeat(np.arange(len(begins)), counts)
    return np.asarray(scores[first_largest(scores.max(1), begins, word)])


def _merged(found: _Found, parts: Parts) -> _Found:
    """The entities of whole rows, from those of their windows.

    Of entities that overlap the longest counts, of equally long ones the surest.
    """
    row = parts.row[found.row]
    kept = []
    order = np.lexsort((np.arange(len(row)), found.starts, row))
    several = parts.counts[row] > 1
    last = -1
    for i in order.tolist():
        if last < 0 or not several[i] or row[i] != row[last] or found.starts[i] >= found.ends[last]:
            kept.append(i)
        else:
            now, before = found.ends[i] - found.starts[i], found.ends[last] - found.starts[last]
            if (now, found.score[i]) <= (before, found.score[last]):
                continue
            kept[-1] = i
        last = i
    chosen = found.take(np.array(kept, np.int64))
    return replace(chosen, row=row[kept])


def _entities(found: _Found, texts: Sequence[str]) -> pa.Array:
    """A list of entities for each text."""
    places = zip(found.row, found.starts, found.ends, strict=True)
    columns = [
        pa.array(found.names, pa.string()),
        pa.array(found.starts),
        pa.array(found.ends),
        pa.array([texts[row][start:end] for row, start, end in places], pa.string()),
        pa.array(found.score.astype(np.float32)),
    ]
    counts = np.bincount(found.row, minlength=len(texts))
    offsets = np.append(0, np.cumsum(counts)).astype(np.int32)
    return pa.ListArray.from_arrays(
        offsets, pa.StructArray.from_arrays(columns, fields=list(ENTITY))
    )
