"""Single-label classification: the likeliest class is the label."""

import numpy as np
import pyarrow as pa

from bertbatch.model.spec import ModelSpec
from bertbatch.tasks.scores import LABEL, Scores, activated


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

    def columns(self, logits: np.ndarray) -> list[pa.Array]:
        scores = activated(logits, self._activation)
        best = scores.argmax(axis=1)
        score = scores.max(axis=1)
        unsure = None if self._least is None else score < self._least
        places = pa.array(best.astype(np.int32), mask=unsure)
        label = pa.DictionaryArray.from_arrays(places, self._labels)
        return [label, pa.array(score.astype(np.float32)), self._scores.column(scores)]

    def labelled(self, columns: list[pa.Array]) -> tuple[np.ndarray, pa.Array]:
        rows = np.flatnonzero(columns[0].is_valid().to_numpy(zero_copy_only=False))
        return rows, columns[0].drop_null()
