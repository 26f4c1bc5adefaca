"""Single-label classification: the likeliest class is the label."""

import numpy as np
import pyarrow as pa

from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokens import Answers

LIST = pa.list_(pa.float32())
LABEL = pa.dictionary(pa.int32(), pa.string())
BEST = pa.list_(pa.struct([pa.field("label", pa.string()), pa.field("score", pa.float32())]))


def activated(logits: np.ndarray, activation: str) -> np.ndarray:
    """Scores of logits [rows, classes], in float64.

    softmax: exp(x_c) / Σ exp(x_c), shifted so that it cannot overflow; sigmoid: 1 / (1 + exp(−x)).
    """
    logits = logits.astype(np.float64)
    if activation == "softmax":
        logits = np.exp(logits - logits.max(axis=-1, keepdims=True))
        logits /= logits.sum(axis=-1, keepdims=True)
    elif activation == "sigmoid":
        with np.errstate(over="ignore"):  # then it is 0
            logits = 1 / (1 + np.exp(-logits))
    return logits


def lists(numbers: np.ndarray) -> pa.Array:
    """Numbers [rows, n] as one list of float32 for each row."""
    return _cut(pa.array(numbers.astype(np.float32).ravel()), numbers.shape[1])


def _cut(values: pa.Array, size: int) -> pa.Array:
    """Values in lists of this size."""
    offsets = np.arange(0, len(values) + 1, size, dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, values)


class Scores:
    """The column `scores`: every class's, in the model's order, or the `top_k` best by name."""

    def __init__(self, spec: ModelSpec):
        self._labels, self._top = spec.labels, spec.asked.top_k
        names = {"labels": "\n".join(spec.labels)}
        kind = LIST if self._top is None else BEST
        self.field = pa.field("scores", kind, nullable=False, metadata=names)

    def column(self, scores: np.ndarray) -> pa.Array:
        """From scores [rows, classes]."""
        if self._top is None:
            return lists(scores)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self._top]
        labels = pa.array(self._labels, pa.string()).take(pa.array(best.ravel()))
        values = np.take_along_axis(scores, best, 1).astype(np.float32).ravel()
        pair = [labels, pa.array(values)]
        return _cut(pa.StructArray.from_arrays(pair, fields=list(BEST.value_type)), best.shape[1])


class SingleLabel:
    """Probabilities by softmax, unless the job asks for another activation."""

    def __init__(self, spec: ModelSpec):
        self.shape = (len(spec.labels),)
        self._labels = pa.array(spec.labels, pa.string())
        self._scores = Scores(spec)
        self._activation, self._least = spec.asked.activation, spec.asked.min_score
        self.fields = [
            pa.field("label", LABEL, nullable=self._least is not None),
            pa.field("score", pa.float32(), nullable=False),
            self._scores.field,
        ]

    def columns(self, answers: Answers) -> list[pa.Array]:
        scores = activated(answers.values, self._activation)
        best = scores.argmax(axis=1)
        score = scores.max(axis=1)
        unsure = None if self._least is None else score < self._least
        places = pa.array(best.astype(np.int32), mask=unsure)
        label = pa.DictionaryArray.from_arrays(places, self._labels)
        return [label, pa.array(score.astype(np.float32)), self._scores.column(scores)]

    def labelled(self, columns: list[pa.Array]) -> tuple[np.ndarray, pa.Array]:
        rows = np.flatnonzero(columns[0].is_valid().to_numpy(zero_copy_only=False))
        return rows, columns[0].drop_null()
