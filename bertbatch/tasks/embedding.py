"""Embeddings: the vector of a text."""

import numpy as np
import pyarrow as pa

from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokens import Answers


class Embedding:
    """As the model gives it; of `dimensions`, the first numbers, whose length is then not 1."""

    def __init__(self, spec: ModelSpec):
        self.shape = (spec.dimensions,)
        self._kept = spec.asked.dimensions or spec.dimensions
        number = pa.float16() if spec.asked.embedding_type == "float16" else pa.float32()
        self.fields = [pa.field("embedding", pa.list_(number, self._kept), nullable=False)]

    def columns(self, answers: Answers) -> list[pa.Array]:
        kind = self.fields[0].type
        vectors = answers.values[:, : self._kept].astype(kind.value_type.to_pandas_dtype())
        return [pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(vectors)), self._kept)]

    def labelled(self, columns: list[pa.Array]) -> None:
        return None
