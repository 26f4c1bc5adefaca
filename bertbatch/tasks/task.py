"""Tasks turn an engine's answers into output columns.

A task is one file with one class that follows `Task`, and one line in `TASKS`; the model's
`problem_type` chooses it.
"""

from typing import Protocol

import numpy as np
import pyarrow as pa

from bertbatch.errors import JobError
from bertbatch.model.spec import ModelSpec
from bertbatch.registry import TASKS


class Task(Protocol):
    """Made with the model's labels and the job's threshold.

    `fields`: its output columns. `shape`: of the engine's answer for one row; (classes,) is a
    logit for each class.
    """

    fields: list[pa.Field]
    shape: tuple[int, ...]

    def columns(self, answers: np.ndarray) -> list[pa.Array]:
        """One array for each of `fields`, from answers float32 [rows, *shape]."""

    def labelled(self, columns: list[pa.Array]) -> tuple[np.ndarray, pa.Array] | None:
        """Rows (indices) and their labels; None if the task has none."""


def task_of(spec: ModelSpec) -> Task:
    """The task of a model. Raises JobError for a problem type that no task answers."""
    if spec.problem_type not in TASKS:
        raise JobError(
            f"model.name {spec.name}: problem_type {spec.problem_type!r} is none of "
            f"{', '.join(TASKS)}"
        )
    task: Task = TASKS[spec.problem_type].load()(spec.labels, spec.threshold)
    return task
