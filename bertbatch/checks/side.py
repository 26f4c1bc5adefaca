"""One of two outputs within a window: its answers by the place of their rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from bertbatch.checks.answers import Answers, read_columns
from bertbatch.checks.evaluate import label_members, label_places
from bertbatch.checks.gold import Gold
from bertbatch.checks.windows import Window
from bertbatch.errors import JobError
from bertbatch.tasks.single_label import LIST
from bertbatch.tasks.task import numbers


@dataclass(frozen=True)
class Shape:
    """What is compared: `labels` of both outputs; `scores_of` names the numbers of a row.

    `all_scores`: they are the scores of all labels, rather than that of the given one.
    """

    task: str
    labels: tuple[str, ...]
    scores_of: str
    all_scores: bool


@dataclass
class Side:
    """`rows` of a window by their place in it.

    `there`: whether the output has the row. `answer`: the label's place among both outputs'
    labels, int64 [rows], −1 for none; or which labels there are, bool [rows, labels]; all −1 for
    numbers. `numbers` float64 [rows, n], see `Shape`; `score` float64 [rows]: the given label's.
    `gold` as `answer`, where `judged`.
    """

    there: np.ndarray
    answer: np.ndarray
    numbers: np.ndarray
    score: np.ndarray
    gold: np.ndarray
    judged: np.ndarray


def equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether rows have the same answer, bool [rows]."""
    same: np.ndarray = np.equal(a, b)
    return np.logical_and.reduce(same, axis=1) if same.ndim > 1 else same


def shape_of(a: Answers, b: Answers) -> Shape:
    """What two outputs have in common to compare. Raises JobError if they lack a column for it."""
    if a.kind == "regression":
        for each in (a, b):
            if each.has("values"):
                raise JobError(
                    f"{each.output.path}: the model gives several numbers for each row; compare "
                    "takes models with one"
                )
            each.check_there(each.number)
        return Shape(a.kind, (), "values", False)
    labels = tuple(dict.fromkeys([*a.labels, *b.labels]))
    for each in (a, b):
        each.check_there(_label(each))
    if a.labels == b.labels and all(map(_has_all_scores, (a, b))):
        return Shape(a.kind, labels, "scores of all labels", True)
    given = a.kind == "single_label" and a.has("score") and b.has("score")
    return Shape(a.kind, labels, "scores of the given labels" if given else "", False)


def columns_of(answers: Answers, shape: Shape) -> list[str]:
    """The columns of an output that are compared."""
    if shape.task == "regression":
        return ["source", "row", answers.number]
    more = ["score"] if answers.kind == "single_label" and answers.has("score") else []
    more += ["scores"] if shape.all_scores else []
    return ["source", "row", _label(answers), *map(answers.name, more)]


def read_side(
    answers: Answers, parts: Sequence[str], window: Window, shape: Shape, gold: Gold | None
) -> Side:
    """The answers of an output in a window; `gold` if it has the gold column."""
    rows, labels = window.rows, len(shape.labels)
    several = shape.task == "multi_label"
    nothing = np.zeros((rows, labels), bool) if several else np.full(rows, -1)
    width = labels if shape.all_scores else 1
    side = Side(
        np.zeros(rows, bool),
        nothing,
        np.full((rows, width), np.nan),
        np.full(rows, np.nan),
        nothing.copy(),
        np.zeros(rows, bool),
    )
    wanted = [*columns_of(answers, shape), *([gold.column] if gold else [])]
    for table in read_columns(answers.output, parts, wanted):
        at, places = window.places(table)
        if len(at):
            _add(side, table.take(pa.array(at)), places, answers, shape, gold)
    return side


def _add(
    side: Side,
    table: pa.Table,
    places: np.ndarray,
    answers: Answers,
    shape: Shape,
    gold: Gold | None,
) -> None:
    side.there[places] = True
    if shape.task == "regression":
        side.numbers[places, 0] = table[answers.number].to_numpy()
        return
    several = shape.task == "multi_label"
    read = label_members if several else label_places
    side.answer[places] = read(table[_label(answers)], shape.labels)
    if answers.name("score") in table.column_names:
        side.score[places] = table[answers.name("score")].to_numpy()
    if shape.all_scores:
        side.numbers[places] = numbers({"scores": table[answers.name("scores")]})["scores"]
    elif shape.scores_of:
        side.numbers[places, 0] = side.score[places]
    if gold:
        found = gold.several if several else gold.single
        side.gold[places], side.judged[places] = found(table[gold.column])


def _label(answers: Answers) -> str:
    return answers.name("label" if answers.kind == "single_label" else "labels")


def _has_all_scores(answers: Answers) -> bool:
    if not answers.has("scores"):
        return False
    return bool(answers.schema.field(answers.name("scores")).type == LIST)
