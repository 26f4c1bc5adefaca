"""Single-label classification: softmax over the classes, the likeliest is the label."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

SCORES = pa.list_(pa.float32())
LABEL = pa.dictionary(pa.int32(), pa.string())


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(x_c) / Σ exp(x_c) over the last axis, in float64, shifted so that it cannot overflow."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    result: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def score_lists(scores: np.ndarray) -> pa.Array:
    """Scores [rows, classes] as one list per row."""
    offsets = np.arange(0, scores.size + 1, scores.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, scores.astype(np.float32).ravel())


class SingleLabel:
    def __init__(self, labels: Sequence[str], threshold: float):
        self.shape = (len(labels),)
        self._labels = pa.array(labels, pa.string())
        self.fields = [
            pa.field("label", LABEL, nullable=False),
            pa.field("score", pa.float32(), nullable=False),
            pa.field("scores", SCORES, nullable=False, metadata={"labels": "\n".join(labels)}),
        ]

    def columns(self, logits: np.ndarray) -> list[pa.Array]:
        scores = softmax(logits)
        best = scores.argmax(axis=1)
        label = pa.DictionaryArray.from_arrays(best.astype(np.int32), self._labels)
        return [label, pa.array(scores.max(axis=1).astype(np.float32)), score_lists(scores)]

    def labelled(self, columns: list[pa.Array]) -> tuple[np.ndarray, pa.Array]:
        return np.arange(len(columns[0])), columns[0]
