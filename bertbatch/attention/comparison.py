"""The attention statistics of two corpora, compared for every head.

Rows are compared within ranges of lengths that both corpora have, because entropy and distances
rise with length whatever the text. Within a range k the means differ by δ; over ranges, with
weights w = n₁n₂/(n₁+n₂), Δ = Σwδ/Σw. The effect size d is Δ over the standard deviation within
ranges, pooled over ranges and corpora (Cohen 1988).

Two tests say how sure a difference is, and the less sure one counts:

- Welch's t, whose corpora may vary differently: se² = Σw²(s₁²/n₁ + s₂²/n₂) / (Σw)², with the
  degrees of freedom of Satterthwaite 1946, (Σv)² / Σ(v²/(n−1)) over the terms v of se²
- Student's t with the pooled variance s²: se² = s²/Σw, with Σ(n₁+n₂−2) degrees of freedom

Welch's alone is too sure where one side has few rows, since their variance may be small by chance;
Student's alone is where the side of few rows varies more. q is p adjusted for the number of
comparisons, so that of those with q ≤ 0.01 about 1 % are false (Benjamini & Hochberg 1995).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from bertbatch.attention.aggregates import ALL, LENGTH
from bertbatch.attention.comparable import check_comparable, notes
from bertbatch.attention.corpus import Corpus, read_corpus
from bertbatch.attention.student import two_sided
from bertbatch.errors import JobError
from bertbatch.output.folder import Output

FALSE_DISCOVERIES = 0.01
LEAST_ROWS = 5  # of either corpus in a range of lengths: fewer say little about how rows vary
FIGURES = ("difference", "effect_size", "t", "df", "p")

Pair = tuple[dict[str, Any], dict[str, Any]]  # the aggregates of a range of lengths in both


@dataclass(frozen=True)
class Comparison:
    """One row of `table` for each statistic, layer and head, the largest effect first.

    `rows` of the two corpora, and how many of them were `compared`: the others are of lengths that
    one of the two has too few rows of. `notes`: what a reader must know of the two outputs.
    """

    table: pa.Table
    rows: tuple[int, int]
    compared: tuple[int, int]
    notes: list[str] = field(default_factory=list)

    @property
    def sure(self) -> int:
        """How many comparisons differ at the rate of false discoveries."""
        return int(np.count_nonzero(self.table["q"].to_numpy() <= FALSE_DISCOVERIES))


def compare_outputs(
    this: Output, other: Output, across_models: bool, model: str | None = None
) -> Comparison:
    """The statistics of two outputs. `model`: whose, of an output of several models.

    A difference is positive if `this` has more. Raises JobError if the two cannot be compared:
    different models (unless `across_models`), tokenizers or settings, or no lengths in common.
    """
    names = check_comparable(this, other, across_models, model)
    found = compare(read_corpus(this, names[0]), read_corpus(other, names[1]))
    found.notes.extend(notes(this, other))
    return found


def compare(this: Corpus, other: Corpus) -> Comparison:
    """As `compare_outputs`, for corpora of one shape. Raises JobError without common lengths."""
    lengths = [value for value in this.groups(LENGTH) if value in other.groups(LENGTH)]
    names: list[str] = []
    figures: list[tuple[np.ndarray, ...]] = []
    behind: list[tuple[int, int]] = []
    for name in (name for name in this.tops if name in other.tops):
        pairs = [
            (this.aggregate(key), other.aggregate(key))
            for key in ((LENGTH, value, name) for value in lengths)
            if key in this.keys and key in other.keys
        ]
        pairs = [(a, b) for a, b in pairs if min(a["rows"], b["rows"]) >= LEAST_ROWS]
        if pairs:
            names.append(name)
            figures.append(_stratified(pairs))
            behind.append((_total(pairs, 0), _total(pairs, 1)))
    if not names:
        raise JobError(
            "the two outputs have no range of text lengths in common with at least "
            f"{LEAST_ROWS} rows in each: compare corpora of similar lengths, or of more rows"
        )
    width = this.layers * this.heads
    made = {name: np.concatenate([f[i] for f in figures]) for i, name in enumerate(FIGURES)}
    head = np.tile(np.arange(width, dtype=np.int32), len(names))
    counts = np.repeat(np.array(behind, np.int64), width, axis=0)
    table = pa.table(
        {
            "statistic": np.repeat(names, width).tolist(),
            "layer": head // this.heads + 1,
            "head": head % this.heads + 1,
            **made,
            "q": adjusted(made["p"]),
            "rows": counts[:, 0],
            "rows_other": counts[:, 1],
        }
    )
    order = np.argsort(-np.abs(made["effect_size"]), kind="stable")
    most = max(behind)
    return Comparison(table.take(order), (_rows(this, names), _rows(other, names)), most)


def adjusted(p: np.ndarray) -> np.ndarray:
    """Benjamini & Hochberg's step-up: the least p_(i) · m / i from each place upwards."""
    order = np.argsort(-p)
    ranks = np.arange(len(p), 0, -1)
    q = np.empty_like(p)
    q[order] = np.minimum.accumulate(np.minimum(p[order] * len(p) / ranks, 1))
    return q


def _stratified(pairs: Sequence[Pair]) -> tuple[np.ndarray, ...]:
    """The `FIGURES` of every head, over ranges of lengths."""
    shape = pairs[0][0]["mean"].shape
    weight, free = 0.0, 0.0
    difference, variance, squares, unsure = (np.zeros(shape) for _ in range(4))
    for a, b in pairs:
        w = a["rows"] * b["rows"] / (a["rows"] + b["rows"])
        weight += w
        difference += w * (a["mean"] - b["mean"])
        for side in (a, b):
            n = side["rows"]
            v = w * w * side["m2"] / (n - 1) / n
            variance += v
            unsure += v * v / (n - 1)
            squares += side["m2"]
            free += n - 1
    difference /= weight
    pooled = np.sqrt(squares / free)
    welch = _ratio(difference, np.sqrt(variance) / weight)
    student = _ratio(difference, pooled / np.sqrt(weight))
    freedom = np.where(unsure > 0, variance**2 / np.where(unsure > 0, unsure, 1), free)
    ps = two_sided(welch, freedom), two_sided(student, np.full(shape, free))
    less = ps[0] >= ps[1]
    return (
        difference,
        _ratio(difference, pooled),
        np.where(less, welch, student),
        np.where(less, freedom, free),
        np.maximum(*ps),
    )


def _total(pairs: Sequence[Pair], place: int) -> int:
    return int(sum(pair[place]["rows"] for pair in pairs))


def _rows(corpus: Corpus, names: Sequence[str]) -> int:
    """The rows of a corpus that have one of these statistics, of which some have fewer."""
    return int(max(corpus.aggregate((ALL, "", name))["rows"] for name in names))


def _ratio(difference: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """difference / spread; without spread, zero for no difference and else infinite."""
    safe = np.where(spread > 0, spread, 1)
    certain = np.where(difference == 0, 0.0, np.copysign(np.inf, difference))
    return np.where(spread > 0, difference / safe, certain)
