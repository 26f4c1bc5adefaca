"""Cross-encoders: how well two texts belong together, from a model with one output."""

import numpy as np
import pyarrow as pa

from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokens import Answers
from bertbatch.tasks.single_label import activated


class CrossEncoder:
    """A score by sigmoid, or the output itself where the model's config.json or the job says so."""

    def __init__(self, spec: ModelSpec):
        self.shape = (1,)
        self._activation = spec.asked.activation
        self.fields = [pa.field("score", pa.float32(), nullable=False)]

    def columns(self, answers: Answers) -> list[pa.Array]:
        return [pa.array(activated(answers.values[:, 0], self._activation).astype(np.float32))]

    def labelled(self, columns: list[pa.Array]) -> None:
        return None
