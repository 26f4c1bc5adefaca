"""Regression: the model's one output is the value."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


class Regression:
    def __init__(self, labels: Sequence[str], threshold: float):
        self.shape = (len(labels),)
        self.fields = [pa.field("value", pa.float32(), nullable=False)]

    def columns(self, logits: np.ndarray) -> list[pa.Array]:
        return [pa.array(logits[:, 0].astype(np.float32))]

    def labelled(self, columns: list[pa.Array]) -> None:
        return None
