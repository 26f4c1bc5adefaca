"""Tasks turn an engine's answers into output columns.

A task is one file with one class that follows `Task`, and one line in `TASKS`; `model.task` chooses
it, by default as `model/asked.py` reads it off the model.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokens import Answers
from bertbatch.registry import TASKS
from bertbatch.tasks.single_label import LIST, lists

# The columns with numbers, by which answers are compared.
NUMBERS = ("scores", "values", "value", "score", "embedding", "logits")


class Task(Protocol):
    """Made with a checked model.

    `fields`: its output columns. `shape`: of the engine's answer for one row, or for one token of
    it (see `gives` in `model/asked.py`); (classes,) is a logit for each class.
    """

    fields: list[pa.Field]
    shape: tuple[int, ...]

    def columns(self, answers: Answers) -> list[pa.Array]:
        """One array for each of `fields`, from the engine's answers to rows."""

    def labelled(self, columns: list[pa.Array]) -> tuple[np.ndarray, pa.Array] | None:
        """Rows (indices) and their labels; None if the task has none."""


def task_of(spec: ModelSpec) -> Task:
    """The task that a job asks of a model."""
    task: Task = TASKS[spec.asked.task].load()(spec)
    task = WithLogits(task) if spec.asked.logits else task
    if spec.asked.long_text != "windows":
        return task
    from bertbatch.tasks.windows import WithWindows

    return WithWindows(task, spec)


def by_name(task: Task, answers: Answers) -> dict[str, pa.Array]:
    """A task's columns by their names."""
    names = [field.name for field in task.fields]
    return dict(zip(names, task.columns(answers), strict=True))


class WithLogits:
    """A task with one more column, the engine's answers themselves."""

    def __init__(self, task: Task):
        self._task = task
        self.shape = task.shape
        self.fields = [*task.fields, pa.field("logits", LIST, nullable=False)]

    def columns(self, answers: Answers) -> list[pa.Array]:
        return [*self._task.columns(answers), lists(answers.values)]

    def labelled(self, columns: list[pa.Array]) -> tuple[np.ndarray, pa.Array] | None:
        return self._task.labelled(columns[:-1])


def apart(now: np.ndarray, then: np.ndarray, column: str) -> float:
    """How far numbers [rows, n] are from others, at most.

    Scores are between 0 and 1. Values have any size, so the share of the largest counts; vectors
    the share of each one's length.
    """
    off = np.abs(now - then)
    if column == "embedding":
        off = off.max(1) / np.maximum(np.linalg.norm(then, axis=1), 1e-12)
    elif column != "scores":
        off = off / max(1.0, float(np.abs(then).max(initial=0)))
    return float(off.max(initial=0))


def numbers(columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The numbers of answers by column, float64 [rows, n], from Arrow arrays."""
    return {name: _numbers(columns[name]) for name in NUMBERS if name in columns}


def _numbers(column: Any) -> np.ndarray:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    rows = len(column)
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    if pa.types.is_struct(column.type):
        column = column.field("score")
    found: np.ndarray = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return found.reshape(rows, -1)
