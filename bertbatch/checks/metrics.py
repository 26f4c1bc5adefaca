"""Formulas of how good answers are, or how far two sets of answers agree.

They are over counts and sums that can be added up part by part. Nothing here reads an output.
"""

import math
from dataclasses import dataclass, field

import numpy as np

Z95 = 1.959963984540054  # of the normal distribution: 95 % lie within so many standard deviations
BINS = 15  # of calibration


def wilson(right: int, rows: int) -> tuple[float, float]:
    """The 95 % interval of a share, right / rows: Wilson 1927, formula 4.

    https://doi.org/10.1080/01621459.1927.10502953. Unlike p ± 1.96 √(p(1−p)/n) it stays within
    0 to 1, and is right for few rows. Of no rows it is 0 to 1.
    """
    if not rows:
        return 0.0, 1.0
    p, z2 = right / rows, Z95 * Z95
    center = (p + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z95 / (1 + z2 / rows) * math.sqrt(p * (1 - p) / rows + z2 / (4 * rows * rows))
    # At the ends the interval has the share itself for its end, which rounding would miss.
    low, high = max(center - half, 0.0), min(center + half, 1.0)
    return (0.0 if right == 0 else low), (1.0 if right == rows else high)


def ratio(part: float, whole: float) -> float | None:
    """part / whole; None where nothing is counted."""
    return part / whole if whole else None


@dataclass(frozen=True)
class Detection:
    """How well one label is found: `hits` have it and were given it."""

    label: str
    hits: int
    predicted: int
    support: int

    @property
    def precision(self) -> float | None:
        """hits / predicted; None if the label was never given."""
        return ratio(self.hits, self.predicted)

    @property
    def recall(self) -> float | None:
        """hits / support; None if no row has the label."""
        return ratio(self.hits, self.support)

    @property
    def f1(self) -> float | None:
        """2 · hits / (predicted + support), the harmonic mean of precision and recall."""
        return ratio(2 * self.hits, self.predicted + self.support)


def detections(labels: tuple[str, ...], confusion: np.ndarray) -> list[Detection]:
    """Of each label, from counts [gold, predicted]; predicted may have a column more."""
    hits, support, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    return [
        Detection(label, int(hits[i]), int(predicted[i]), int(support[i]))
        for i, label in enumerate(labels)
    ]


def macro_f1(found: list[Detection]) -> float | None:
    """The mean F1 of the labels that occur, each counting once."""
    defined = [each.f1 for each in found if each.f1 is not None]
    return sum(defined) / len(defined) if defined else None


def micro(found: list[Detection]) -> Detection:
    """All labels as if they were one."""
    return Detection(
        "micro",
        sum(each.hits for each in found),
        sum(each.predicted for each in found),
        sum(each.support for each in found),
    )


@dataclass
class Calibration:
    """How often answers are right, by their score, in bins of equal width.

    Bin m of M has the scores in ((m − 1)/M, m/M], the first one 0 as well: Guo et al. 2017,
    https://arxiv.org/abs/1706.04599, formulas 2 to 5.
    """

    rows: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    right: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    scores: np.ndarray = field(default_factory=lambda: np.zeros(BINS))  # sums
    probabilities: bool = True  # whether all scores were between 0 and 1

    def add(self, scores: np.ndarray, right: np.ndarray) -> None:
        """Scores float [n] of predicted labels, and whether these are right, bool [n]."""
        if not len(scores):
            return
        if not (scores.min() >= 0 and scores.max() <= 1):
            self.probabilities = False
            return
        at = np.clip(np.ceil(scores * BINS).astype(np.int64) - 1, 0, BINS - 1)
        self.rows += np.bincount(at, minlength=BINS)
        self.right += np.bincount(at[right], minlength=BINS)
        self.scores += np.bincount(at, scores, BINS)

    @property
    def error(self) -> float | None:
        """Σ rows_m / rows · |accuracy_m − mean score_m|; None without scores that are shares."""
        total = int(self.rows.sum())
        if not total or not self.probabilities:
            return None
        return float(np.abs(self.right - self.scores).sum() / total)


@dataclass
class Pairs:
    """Sums over pairs of numbers (x, y): what their differences and correlation follow from."""

    rows: int = 0
    means: np.ndarray = field(default_factory=lambda: np.zeros(2))
    products: np.ndarray = field(default_factory=lambda: np.zeros((2, 2)))
    absolute: float = 0.0
    squared: float = 0.0
    largest: float = 0.0

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Merges float64 [n] each: Chan, Golub & LeVeque 1979, formulas 2.1."""
        if not len(x):
            return
        off = np.abs(x - y)
        self.absolute += float(off.sum())
        self.squared += float((off * off).sum())
        self.largest = max(self.largest, float(off.max()))
        both = np.stack([x, y])
        means = both.mean(1)
        centered = both - means[:, None]
        whole = self.rows + len(x)
        step = means - self.means
        self.products += centered @ centered.T
        self.products += np.outer(step, step) * (self.rows * len(x) / whole)
        self.means = self.means + step * (len(x) / whole)
        self.rows = whole

    @property
    def mean_absolute(self) -> float | None:
        return ratio(self.absolute, self.rows)

    @property
    def root_mean_square(self) -> float | None:
        return math.sqrt(self.squared / self.rows) if self.rows else None

    @property
    def pearson(self) -> float | None:
        """Σ(x−x̄)(y−ȳ) / √(Σ(x−x̄)² Σ(y−ȳ)²); None if one of them does not vary."""
        spread = math.sqrt(self.products[0, 0]) * math.sqrt(self.products[1, 1])
        return min(max(float(self.products[0, 1]) / spread, -1.0), 1.0) if spread else None


def ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 1, float64 [n]; equal values have the mean of their ranks."""
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: np.ndarray = (last - (counts - 1) / 2)[place]
    return mean


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's correlation of the ranks: Spearman 1904. None if one of them does not vary."""
    pairs = Pairs()
    pairs.add(ranks(x), ranks(y))
    return pairs.pearson


def kappa(confusion: np.ndarray) -> float | None:
    """(p_o − p_e) / (1 − p_e) over counts [n, n]: Cohen 1960.

    https://doi.org/10.1177/001316446002000104. p_o is the share of rows with equal labels, p_e
    what it would be by chance. None without rows, or if both have one and the same label alone.
    """
    total = confusion.sum()
    if not total:
        return None
    observed = np.trace(confusion) / total
    chance = float((confusion.sum(0) / total) @ (confusion.sum(1) / total))
    return float((observed - chance) / (1 - chance)) if chance < 1 else None


def mcnemar(only_a: int, only_b: int) -> float:
    """p of McNemar's exact test, two-sided: of rows that one of two got right alone.

    If neither is better, only_a follows the binomial distribution of n = only_a + only_b and ½:
    p = min(1, 2 P(X ≤ min(only_a, only_b))). McNemar 1947, https://doi.org/10.1007/BF02295996.
    """
    n, k = only_a + only_b, min(only_a, only_b)
    if 2 * k == n:
        return 1.0
    logarithm = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    first = logarithm - n * math.log(2)
    total = term = 1.0
    for i in range(k, 0, -1):  # C(n, i − 1) = C(n, i) · i / (n − i + 1)
        term *= i / (n - i + 1)
        total += term
        if term < 1e-17 * total:
            break
    return min(1.0, 2 * math.exp(first) * total)
