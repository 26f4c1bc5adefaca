"""Regression: the model's outputs are the values."""

import pyarrow as pa

from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokens import Answers
from bertbatch.tasks.single_label import LIST, lists


class Regression:
    """One output is a number, several are a list of them, whose names the field's metadata has."""

    def __init__(self, spec: ModelSpec):
        self.shape = (len(spec.labels),)
        self._names = spec.labels
        value = pa.field("value", pa.float32(), nullable=False)
        names = {"labels": "\n".join(spec.labels)}
        values = pa.field("values", LIST, nullable=False, metadata=names)
        self.fields = [value if len(spec.labels) == 1 else values]

    def columns(self, answers: Answers) -> list[pa.Array]:
        values = answers.values
        return [lists(values) if len(self._names) > 1 else pa.array(values[:, 0])]

    def labelled(self, columns: list[pa.Array]) -> None:
        return None
