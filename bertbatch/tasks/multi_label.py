"""Multi-label classification: a sigmoid per class, every class over the threshold is a label."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokens import Answers
from bertbatch.tasks.single_label import LABEL, Scores, activated


class MultiLabel:
    def __init__(self, spec: ModelSpec):
        self.shape = (len(spec.labels),)
        self._labels = pa.array(spec.labels, pa.string())
        self._threshold = spec.threshold
        self._scores = Scores(spec)
        self.fields = [pa.field("labels", pa.list_(LABEL), nullable=False), self._scores.field]

    def columns(self, answers: Answers) -> list[pa.Array]:
        scores = activated(answers.values, "sigmoid")
        chosen = scores > self._threshold
        offsets = np.zeros(len(chosen) + 1, np.int32)
        np.cumsum(chosen.sum(axis=1), out=offsets[1:])
        names = pa.DictionaryArray.from_arrays(np.nonzero(chosen)[1].astype(np.int32), self._labels)
        return [pa.ListArray.from_arrays(offsets, names), self._scores.column(scores)]

    def labelled(self, columns: list[pa.Array]) -> tuple[np.ndarray, pa.Array]:
        return pc.list_parent_indices(columns[0]).to_numpy(), columns[0].flatten()
