"""Token classification: the entities that a text names, with where they are.

Tokens become entities as in transformers' pipeline, `aggregation_strategy`
(https://huggingface.co/docs/transformers/main_classes/pipelines).
"""

import numpy as np
import pyarrow as pa

from bertbatch.model.spans import Spans
from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokens import Answers
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
        first = _firsts(row)
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
        found = names != OUTSIDE
        return [
            _entities(
                row[begins][found], names[found], starts[begins][found], ends[last][found],
                score[found], spans,
            )
        ]  # fmt: skip

    def labelled(self, columns: list[pa.Array]) -> tuple[np.ndarray, pa.Array]:
        """Each row with each label of its entities once."""
        rows = np.repeat(np.arange(len(columns[0])), np.diff(columns[0].offsets.to_numpy()))
        labels = columns[0].flatten().field("label").dictionary_encode()
        codes = labels.indices.to_numpy()
        each = np.unique(np.stack([rows, codes]), axis=1)
        names = labels.dictionary.take(pa.array(each[1]))
        return each[0], names


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
    most = scores.max(1)
    word = np.repeat(np.arange(len(begins)), counts)
    is_most = np.flatnonzero(most == np.maximum.reduceat(most, begins)[word])
    _, chosen = np.unique(word[is_most], return_index=True)  # the first of a word's
    return np.asarray(scores[is_most[chosen]])


def _entities(
    row: np.ndarray,
    names: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    score: np.ndarray,
    spans: Spans,
) -> pa.Array:
    """A list of entities for each row; `row` says whose each is."""
    texts = spans.texts
    parts = [texts[r][a:b] for r, a, b in zip(row, starts, ends, strict=True)]
    columns = [
        pa.array(names, pa.string()),
        pa.array(starts),
        pa.array(ends),
        pa.array(parts, pa.string()),
        pa.array(score.astype(np.float32)),
    ]
    counts = np.bincount(row, minlength=len(texts))
    offsets = np.append(0, np.cumsum(counts)).astype(np.int32)
    return pa.ListArray.from_arrays(
        offsets, pa.StructArray.from_arrays(columns, fields=list(ENTITY))
    )
