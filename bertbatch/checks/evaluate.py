"""How good an output's answers are, by a column that has the right ones.

All rows are counted part by part, so that memory does not grow with the output.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertbatch.attention.sample import sampled
from bertbatch.checks.answers import Answers, Committed, committed, read_answers, read_columns
from bertbatch.checks.gold import numbers, read_gold
from bertbatch.checks.metrics import (
    Calibration,
    Detection,
    Pairs,
    detections,
    macro_f1,
    micro,
    spearman,
    wilson,
)
from bertbatch.errors import JobError
from bertbatch.output.folder import Output
from bertbatch.wording import counted

RANKED = 1_000_000  # rows whose ranks are compared; of more, a sample of about so many
REFUSED = {
    "embedding": "embeddings have no right answer to compare with",
    "token_classification": "entities are not judged yet; compare them as the task's own benchmark "
    "does",
}


@dataclass
class Evaluation:
    """What was judged: `rows` of the output with an answer and a gold value.

    `without_gold`: rows whose gold value is null; they are left out, as those in quarantine are.
    `lack`: what the output lacks, as a sentence about it goes on.
    """

    output: str
    model: str
    task: str
    gold: str
    matched_by: str | None = None  # "label" or "id"; None for numbers
    rows: int = 0
    without_gold: int = 0
    quarantined: int = 0
    lack: str = ""

    @property
    def accuracy(self) -> float | None:
        """The share of right rows; None for numbers."""
        return None


@dataclass
class _Counted(Evaluation):
    labels: tuple[str, ...] = ()
    right: int = 0
    found: list[Detection] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        return self.right / self.rows

    @property
    def interval(self) -> tuple[float, float]:
        """The accuracy's 95 % interval."""
        return wilson(self.right, self.rows)

    @property
    def macro_f1(self) -> float | None:
        return macro_f1(self.found)


@dataclass
class Classification(_Counted):
    """One label in each row. `confusion` int64 [gold, predicted]: its last column has no label."""

    confusion: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), np.int64))
    calibration: Calibration | None = None  # None without a column of scores

    @property
    def unlabelled(self) -> int:
        """Rows whose score was below `model.min_score`; they count as wrong."""
        return int(self.confusion[:, -1].sum())


@dataclass
class LabelSets(_Counted):
    """Several labels in each row; a row is right if all of them are."""

    @property
    def micro(self) -> Detection:
        return micro(self.found)


@dataclass
class Numbers(Evaluation):
    """A number in each row. `ranked`: of how many rows Spearman's correlation is."""

    pairs: Pairs = field(default_factory=Pairs)
    spearman: float | None = None
    ranked: int = 0


Damaged = dict[str, str] | None


def evaluate(
    output: Output, gold: str, model: str | None = None, damaged: Damaged = None
) -> Evaluation:
    """Judges the committed rows of an output by its carried column `gold`.

    `model`: whose answers, by what their columns begin with, if there are several. `damaged`: as
    for `read_parts`. Raises JobError if the column is not there or has other values than labels,
    and for a task without such a judgement.
    """
    answers = read_answers(output, model)
    if why := REFUSED.get(answers.kind):
        raise JobError(f"{output.path}: {why}")
    answers.check_there(gold)
    there = committed(answers)
    judge = {"single_label": _labels, "multi_label": _sets, "regression": _numbers}[answers.kind]
    found = judge(answers, there, gold, damaged)
    if not found.rows:
        raise JobError(f"--gold {gold}: no committed row of {output.path} has a value")
    whole = [unit for unit in there.units if unit.part not in (damaged or {})]
    found.quarantined = output.quarantined(whole)
    return found


def _facts(answers: Answers, there: Committed, gold: str) -> dict[str, Any]:
    return {
        "output": answers.output.path,
        "model": answers.model,
        "task": answers.kind,
        "gold": gold,
        "lack": there.standing.lack,
    }


def _labels(answers: Answers, there: Committed, column: str, damaged: Damaged) -> Classification:
    label, score = answers.name("label"), answers.name("score")
    answers.check_there(label)
    gold = read_gold(answers, there.parts, column, damaged)
    count = len(gold.labels)
    confusion = np.zeros((count, count + 1), np.int64)
    calibration = Calibration() if answers.has("score") else None
    without = 0
    wanted = [column, label, *([score] if calibration else [])]
    for table in read_columns(answers.output, there.parts, wanted, damaged):
        right, judged = gold.single(table[column])
        given = label_places(table[label], gold.labels)
        without += int((~judged).sum())
        cells = right[judged] * (count + 1) + given[judged]  # −1 is the last column of the row
        cells[given[judged] < 0] += count + 1
        confusion += np.bincount(cells, minlength=confusion.size).reshape(confusion.shape)
        if calibration:
            labelled = judged & (given >= 0)
            scores = table[score].to_numpy().astype(np.float64)[labelled]
            calibration.add(scores, (given == right)[labelled])
    return Classification(
        **_facts(answers, there, column),
        matched_by=gold.by,
        rows=int(confusion.sum()),
        without_gold=without,
        labels=gold.labels,
        right=int(np.trace(confusion)),
        found=detections(gold.labels, confusion),
        confusion=confusion,
        calibration=calibration,
    )


def _sets(answers: Answers, there: Committed, column: str, damaged: Damaged) -> LabelSets:
    labels = answers.name("labels")
    answers.check_there(labels)
    gold = read_gold(answers, there.parts, column, damaged)
    counts = np.zeros((3, len(gold.labels)), np.int64)  # hits, predicted, support
    rows = without = right = 0
    for table in read_columns(answers.output, there.parts, [column, labels], damaged):
        true, judged = gold.several(table[column])
        given = label_members(table[labels], gold.labels)
        true, given = true[judged], given[judged]
        counts += np.stack([(true & given).sum(0), given.sum(0), true.sum(0)])
        right += int((true == given).all(1).sum())
        rows += len(true)
        without += int((~judged).sum())
    return LabelSets(
        **_facts(answers, there, column),
        matched_by=gold.by,
        rows=rows,
        without_gold=without,
        labels=gold.labels,
        right=right,
        found=[Detection(label, *map(int, counts[:, i])) for i, label in enumerate(gold.labels)],
    )


def _numbers(answers: Answers, there: Committed, column: str, damaged: Damaged) -> Numbers:
    if answers.has("values"):
        raise JobError(
            f"{answers.output.path}: the model gives several numbers for each row; evaluate judges "
            "models with one"
        )
    value = answers.number
    answers.check_there(value)
    found = Numbers(**_facts(answers, there, column))
    share = min(1.0, RANKED / max(sum(unit.selected for unit in there.units), 1))
    kept: list[np.ndarray] = []
    wanted = ["source", "row", column, value]
    for table in read_columns(answers.output, there.parts, wanted, damaged):
        both = np.stack([table[value].to_numpy(), numbers(table[column], column)]).astype(float)
        judged = ~np.isnan(both).any(0)
        found.without_gold += int((~judged).sum())
        found.pairs.add(*both[:, judged])
        kept.append(both[:, judged & _sample(table, share)])
    found.rows = found.pairs.rows
    ranked = np.concatenate(kept, axis=1) if kept else np.zeros((2, 0))
    found.ranked, found.spearman = ranked.shape[1], spearman(*ranked)
    return found


def _sample(table: pa.Table, share: float) -> np.ndarray:
    """Which rows are in a sample, by a hash of source and row: bool [rows]."""
    sources = table["source"].cast(pa.string()).combine_chunks().dictionary_encode()
    places = sources.indices.to_numpy()
    return sampled(sources.dictionary.to_pylist(), places, table["row"].to_numpy(), share)


def label_places(column: pa.ChunkedArray, labels: tuple[str, ...]) -> np.ndarray:
    """The place of each row's label, int64 [rows]; −1 for no label."""
    places = pc.index_in(column.cast(pa.string()), value_set=pa.array(labels, pa.string()))
    found: np.ndarray = pc.fill_null(places, -1).to_numpy().astype(np.int64)
    return found


def label_members(column: pa.ChunkedArray, labels: tuple[str, ...]) -> np.ndarray:
    """Which labels each row has, bool [rows, labels]."""
    array = column.combine_chunks()
    member = np.zeros((len(array), len(labels)), bool)
    flat = pa.chunked_array([array.flatten().cast(pa.string())])
    member[pc.list_parent_indices(array).to_numpy(), label_places(flat, labels)] = True
    return member


def caveats(evaluation: Evaluation) -> Iterator[str]:
    """What to know about the rows that were judged, in sentences."""
    if evaluation.without_gold:
        without = counted(evaluation.without_gold, "row")
        yield f"{without} without a value in '{evaluation.gold}': left out"
    if evaluation.quarantined:
        yield f"{counted(evaluation.quarantined, 'row')} in quarantine: left out"
    if evaluation.matched_by == "id":
        yield (
            f"the values of '{evaluation.gold}' are taken for labels' places in the model's order, "
            "from 0"
        )
    if evaluation.lack:
        yield f"the output {evaluation.lack}: only its committed rows are judged"
