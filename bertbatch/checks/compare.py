"""How far two outputs over the same rows agree.

Rows are joined by their source and number, window by window, so that memory does not grow with the
outputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from bertbatch.checks.answers import Answers, Committed, committed, read_answers
from bertbatch.checks.gold import Gold, read_gold
from bertbatch.checks.metrics import Pairs, kappa, mcnemar, ratio, wilson
from bertbatch.checks.side import Shape, Side, equal, read_side, shape_of
from bertbatch.checks.windows import ROWS, Window, windows
from bertbatch.errors import JobError
from bertbatch.output.contract import stored_models
from bertbatch.output.folder import Output
from bertbatch.wording import counted

REFUSED = {
    "embedding": "embeddings of two models have no numbers in common",
    "token_classification": "entities are not compared",
}


@dataclass(frozen=True)
class Flip:
    """A row whose two answers differ, and the scores of these, if they have one.

    `certainty`: the smaller of the two scores; for several labels the largest difference of
    scores.
    """

    source: str
    row: int
    answers: tuple[str, str]
    scores: tuple[float | None, float | None]
    certainty: float


@dataclass
class Correctness:
    """Which of two outputs is right, over the rows with a gold value that both have."""

    gold: str
    matched_by: str
    both: int = 0
    only_a: int = 0
    only_b: int = 0
    neither: int = 0

    @property
    def rows(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def right(self) -> tuple[int, int]:
        return self.both + self.only_a, self.both + self.only_b

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """The 95 % interval of each one's accuracy."""
        return [wilson(right, self.rows) for right in self.right]

    @property
    def p(self) -> float:
        """Of McNemar's exact test: how probable such a difference is if neither is better."""
        return mcnemar(self.only_a, self.only_b)


@dataclass
class Agreement:
    """What two outputs have in common; `rows` are in both, `only_a` and `only_b` in one of them.

    `confusion` int64 [labels + 1, labels + 1]: A's label and B's; the last is no label. For several
    labels in a row, `by_label` int64 [labels, 2, 2] has whether A and whether B gave it.
    `scores_of`: what `scores` are the differences of; "" if there is nothing to compare.
    """

    a: str
    b: str
    task: str
    labels: tuple[str, ...]
    scores_of: str
    confusion: np.ndarray
    by_label: np.ndarray
    rows: int = 0
    only_a: int = 0
    only_b: int = 0
    same: int = 0
    flips: list[Flip] = field(default_factory=list)
    scores: Pairs = field(default_factory=Pairs)
    correctness: Correctness | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def agreement(self) -> float | None:
        """The share of the rows with the same answer."""
        return ratio(self.same, self.rows)

    @property
    def kappa(self) -> float | None:
        """Cohen's, of one label in each row."""
        return kappa(self.confusion)

    @property
    def kappas(self) -> dict[str, float | None]:
        """Cohen's for each label, where rows have several."""
        return {label: kappa(self.by_label[i]) for i, label in enumerate(self.labels)}


def compare(
    a: Output, b: Output, gold: str | None = None, limit: int = 10, model: str | None = None
) -> Agreement:
    """Compares two outputs, row by row; `limit`: of how many rows that differ to keep the answers.

    `gold`: a column of A, or else of B, with the right labels. `model`: whose answers, where an
    output has several. Raises JobError if they have no row in common, or other kinds of answers.
    """
    both = [_answers(output, model) for output in (a, b)]
    shape = _common_shape(*both)
    there = [committed(answers) for answers in both]
    found = _empty(both, shape)
    right, of = _find_gold(both, there, gold, shape)
    if right:
        found.correctness = Correctness(right.column, right.by)
    size = 8 * ROWS // (8 + len(shape.labels))  # of many labels fewer rows
    for window, units in windows(there, size):
        sides = [
            read_side(
                answers,
                [unit.part for unit in units[i]],
                window,
                shape,
                right if i == of else None,
            )
            for i, answers in enumerate(both)
        ]
        _count(found, sides[0], sides[1], sides[of])
        flips = [*found.flips, *_flips(found, window, sides[0], sides[1], limit)]
        found.flips = sorted(flips, key=lambda f: (-f.certainty, f.source, f.row))[:limit]
    if not found.rows:
        raise JobError(
            f"{found.a} and {found.b} have no row in common: {counted(found.only_a, 'row')} and "
            f"{counted(found.only_b, 'row')} of other sources; compare outputs of the same input"
        )
    found.notes += _notes(found, there)
    return found


def _answers(output: Output, model: str | None) -> Answers:
    several = "" not in stored_models(output.existing_contract())
    return read_answers(output, model if several else None)


def _common_shape(a: Answers, b: Answers) -> Shape:
    if a.kind != b.kind:
        raise JobError(
            f"{a.output.path} has answers of the task {a.kind}, {b.output.path} of {b.kind}; "
            "compare outputs of one task"
        )
    if why := REFUSED.get(a.kind):
        raise JobError(f"{a.output.path}, {b.output.path}: {why}")
    return shape_of(a, b)


def _empty(both: list[Answers], shape: Shape) -> Agreement:
    labels = len(shape.labels)
    return Agreement(
        both[0].output.path,
        both[1].output.path,
        shape.task,
        shape.labels,
        shape.scores_of,
        np.zeros((labels + 1, labels + 1), np.int64),
        np.zeros((labels, 2, 2), np.int64),
    )


def _find_gold(
    both: list[Answers], there: list[Committed], column: str | None, shape: Shape
) -> tuple[Gold | None, int]:
    """What the gold column means, and which output has it."""
    if column is None:
        return None, 0
    if shape.task == "regression":
        raise JobError("--gold: only labels are right or wrong; bertbatch evaluate judges numbers")
    of = 0 if column in both[0].schema.names or column not in both[1].schema.names else 1
    gold = read_gold(both[of], there[of].parts, column)
    # Its places are those in its own output's labels; here are those of both.
    places = np.array([shape.labels.index(gold.labels[code]) for code in gold.codes])
    return replace(gold, labels=shape.labels, codes=places), of


def _count(found: Agreement, a: Side, b: Side, gold: Side) -> None:
    both = a.there & b.there
    found.rows += int(both.sum())
    found.only_a += int((a.there & ~b.there).sum())
    found.only_b += int((b.there & ~a.there).sum())
    if found.scores_of:
        x, y = a.numbers[both].ravel(), b.numbers[both].ravel()
        found.scores.add(x, y)
    if found.task == "regression":
        found.same += int(equal(a.numbers, b.numbers)[both].sum())
        return
    found.same += int(equal(a.answer, b.answer)[both].sum())
    if found.task == "single_label":
        size = len(found.labels) + 1
        cells = (a.answer % size) * size + b.answer % size  # −1, no label, is the last
        counts = np.bincount(cells[both], minlength=size * size)
        found.confusion += counts.reshape(size, size)
    else:
        for i, counts in enumerate(found.by_label):
            cells = a.answer[both, i] * 2 + b.answer[both, i]
            counts += np.bincount(cells, minlength=4).reshape(2, 2)
    if correct := found.correctness:
        judged = both & gold.judged
        right_a, right_b = (equal(side.answer, gold.gold)[judged] for side in (a, b))
        correct.both += int((right_a & right_b).sum())
        correct.only_a += int((right_a & ~right_b).sum())
        correct.only_b += int((right_b & ~right_a).sum())
        correct.neither += int((~right_a & ~right_b).sum())


def _flips(found: Agreement, window: Window, a: Side, b: Side, limit: int) -> Iterator[Flip]:
    """The rows of a window with different answers, the most certain ones."""
    if found.task == "regression":
        return
    at = np.flatnonzero(a.there & b.there & ~equal(a.answer, b.answer))
    if found.task == "single_label":
        certainty = np.minimum(a.score[at], b.score[at])
    else:
        certainty = np.abs(a.numbers[at] - b.numbers[at]).max(1)
    certainty = np.nan_to_num(certainty)  # without scores all are alike
    for i in np.argsort(-certainty, kind="stable")[:limit]:
        place = int(at[i])
        yield Flip(
            *window.origin(place),
            (_named(found.labels, a.answer[place]), _named(found.labels, b.answer[place])),
            (_score(a, place), _score(b, place)),
            float(certainty[i]),
        )


def _named(labels: tuple[str, ...], answer: np.ndarray) -> str:
    """The label of a row, or its labels."""
    if answer.ndim:
        return ", ".join(label for label, has in zip(labels, answer, strict=True) if has)
    return labels[int(answer)] if answer >= 0 else ""


def _score(side: Side, place: int) -> float | None:
    score = float(side.score[place])
    return None if np.isnan(score) else score


def _notes(found: Agreement, there: list[Committed]) -> Iterator[str]:
    for path, each in zip((found.a, found.b), there, strict=True):
        if lack := each.standing.lack:
            yield f"{path} {lack}: only its committed rows are compared"
    sizes = [{id_: source.size for id_, source in each.plan.sources.items()} for each in there]
    other = sum(sizes[1].get(id_, size) != size for id_, size in sizes[0].items())
    if other:
        had = "had another size" if other == 1 else "had other sizes"
        yield f"{counted(other, 'source')} {had} when scored: rows of one number may differ"
    if found.correctness and found.correctness.matched_by == "id":
        yield (
            f"the values of '{found.correctness.gold}' are taken for labels' places in the model's "
            "order, from 0"
        )
