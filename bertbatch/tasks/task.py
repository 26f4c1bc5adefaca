"""Tasks turn logits into output columns.

A task is one module with one class that follows `Task`, and one line in `TASKS`; the
model's `problem_type` chooses it.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from bertbatch.errors import JobError
from bertbatch.model.spec import ModelSpec
from bertbatch.tasks.multi_label import MultiLabel
from bertbatch.tasks.regression import Regression
from bertbatch.tasks.single_label import SingleLabel


class Task(Protocol):
    fields: list[pa.Field]

    def columns(self, logits: np.ndarray) -> list[pa.Array]:
        """One array for each of `fields`, from logits float32 [rows, classes]."""

    def labelled(self, columns: list[pa.Array]) -> tuple[np.ndarray, pa.Array] | None:
        """Rows (indices) and their labels; None if the task has none."""


TASKS: dict[str, Callable[[Sequence[str], float], Task]] = {
    "single_label_classification": SingleLabel,
    "multi_label_classification": MultiLabel,
    "regression": Regression,
}


def task_of(spec: ModelSpec) -> Task:
    """Raises JobError for a problem type that no task answers."""
    if spec.problem_type not in TASKS:
        raise JobError(
            f"model.name {spec.name}: problem_type {spec.problem_type!r} is none of "
            f"{', '.join(TASKS)}"
        )
    return TASKS[spec.problem_type](spec.labels, spec.threshold)
