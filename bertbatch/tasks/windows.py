"""One answer of a long text's windows."""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokens import Answers, Parts
from bertbatch.tasks.single_label import activated
from bertbatch.tasks.task import Task


class WithWindows:
    """A task over windows, with two more columns.

    `windows`: how many there are; `window`: the one that decides, counted from 0, null where none
    does. `model.combine` says how: the first's answer; the longest's; the mean of all logits,
    values or vectors, where the window decides whose logit for the result is largest; or the
    maximum: for a single label all logits of the window that is surest, else each logit's.
    """

    def __init__(self, task: Task, spec: ModelSpec):
        self._task = task
        self._asked = spec.asked
        self.shape = task.shape
        self.fields = [
            *task.fields,
            pa.field("windows", pa.int32(), nullable=False),
            pa.field("window", pa.int32()),
        ]

    def columns(self, answers: Answers) -> list[pa.Array]:
        parts = answers.parts
        if parts is None:  # each row is one window
            ones = np.ones(len(answers), np.int64)
            parts = Parts(np.arange(len(answers) + 1), ones)
        places: np.ndarray | None = None
        if self._asked.gives != "tokens":
            values, places = self._combined(answers.values, parts)
            answers = replace(answers, values=values, parts=None)
        window = pa.nulls(len(parts.counts), pa.int32())
        if places is not None:
            window = pa.array((places - parts.offsets[:-1]).astype(np.int32))
        counts = pa.array(parts.counts.astype(np.int32))
        return [*self._task.columns(answers), counts, window]

    def labelled(self, columns: list[pa.Array]) -> tuple[np.ndarray, pa.Array] | None:
        return self._task.labelled(columns[:-2])

    def _combined(self, values: np.ndarray, parts: Parts) -> tuple[np.ndarray, np.ndarray | None]:
        """Values [rows, …] of those of windows, and the place of the window that decides."""
        combine, begins = self._asked.combine, parts.offsets[:-1]
        if combine == "first" or not len(begins):
            return values[begins], begins
        if combine == "longest":
            places = parts.largest(parts.lengths)
            return values[places], places
        single = self._asked.task == "single_label"
        if combine == "max" and single:
            places = parts.largest(activated(values, self._asked.activation).max(1))
            return values[places], places
        if combine == "max":
            return np.maximum.reduceat(values, begins), parts.largest(values.max(1))
        mean = np.add.reduceat(values, begins, dtype=np.float64) / parts.counts[:, None]
        found = mean.astype(np.float32)
        if self._asked.gives == "vectors":
            return found, None
        best = found.argmax(1)[parts.row] if single else values.argmax(1)
        return found, parts.largest(np.take_along_axis(values, best[:, None], 1)[:, 0])
