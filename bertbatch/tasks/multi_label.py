"""Multi-label classification: a sigmoid per class, every class over the threshold is a label."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertbatch.tasks.single_label import LABEL, SCORES, score_lists


class MultiLabel:
    def __init__(self, labels: Sequence[str], threshold: float):
        self.shape = (len(labels),)
        self._labels = pa.array(labels, pa.string())
        self._threshold = threshold
        self.fields = [
            pa.field("labels", pa.list_(LABEL), nullable=False),
            pa.field("scores", SCORES, nullable=False, metadata={"labels": "\n".join(labels)}),
        ]

    def columns(self, logits: np.ndarray) -> list[pa.Array]:
        scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
        chosen = scores > self._threshold
        offsets = np.zeros(len(chosen) + 1, np.int32)
        np.cumsum(chosen.sum(axis=1), out=offsets[1:])
        names = pa.DictionaryArray.from_arrays(np.nonzero(chosen)[1].astype(np.int32), self._labels)
        return [pa.ListArray.from_arrays(offsets, names), score_lists(scores)]

    def labelled(self, columns: list[pa.Array]) -> tuple[np.ndarray, pa.Array]:
        return pc.list_parent_indices(columns[0]).to_numpy(), columns[0].flatten()
