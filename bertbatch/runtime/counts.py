"""What is counted of a unit's rows."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from bertbatch.output.part import accounted

BY_MODEL = ("truncated", "unknown", "content", "unlabelled")
EXAMPLES = 3  # rows in quarantine that are named
ENOUGH_ROWS = 100  # of which a share says something


@dataclass
class Counts:
    """What can be counted of rows that were scored, quarantined, or left out by `input.where`.

    `rows_repeated`: the scored rows whose answers were stored, see `repeats/`.
    `real_tokens` and `computed_tokens`: of the forward passes, without and with padding.
    By model are counted `truncated` rows; `unknown` and `content`, tokens outside the vocabulary
    and all that are not special; and `unlabelled`, scored rows without a label, if the task has
    labels. `quarantined` has source, row and reason of the first ones.
    """

    rows_scored: int = 0
    rows_quarantined: int = 0
    rows_left_out: int = 0
    rows_repeated: int = 0
    tokens: int = 0
    real_tokens: int = 0
    computed_tokens: int = 0
    truncated: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    content: Counter[str] = field(default_factory=Counter)
    unlabelled: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    quarantined: list[tuple[str, int, str]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return self.rows_selected + self.rows_left_out

    @property
    def rows_selected(self) -> int:
        """All but those left out."""
        return self.rows_scored + self.rows_quarantined

    @property
    def padding(self) -> float:
        """The share of the computed tokens that is padding."""
        return 1 - self.real_tokens / self.computed_tokens if self.computed_tokens else 0.0

    @property
    def record(self) -> dict[str, Any]:
        """As it is stored: what is counted by model as a number, if there is one model."""
        only = BY_MODEL if set(getattr(self, BY_MODEL[0])) <= {""} else ()
        return {**vars(self), **{name: getattr(self, name)[""] for name in only}}

    def count_labels(
        self, model: str, labelled: tuple[np.ndarray, pa.Array] | None, rows: int
    ) -> None:
        """Counts the labels of some scored rows, as a task gives them."""
        if labelled is None:
            return
        places, labels = labelled
        self.unlabelled[model] += rows - len(np.unique(places))
        for item in labels.value_counts().to_pylist():
            label = item["values"]
            self.labels[f"{model}: {label}" if model else label] += item["counts"]

    def add(self, other: "Counts") -> None:
        for name in Counts.__dataclass_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, Counter):
                mine.update(theirs)
            elif isinstance(mine, list):
                mine.extend(theirs[: EXAMPLES - len(mine)])
            else:
                setattr(self, name, mine + theirs)


def label_shares(labels: dict[str, int], rows_scored: int) -> dict[str, float]:
    """Each label's share of the scored rows; a row of a multi-label model may have several."""
    return {label: count / rows_scored for label, count in labels.items()} if rows_scored else {}


def counts_in(footer: dict[str, Any]) -> Counts:
    """What a part's footer says of its unit's rows; no labels if an early version wrote it."""
    return Counts(*accounted(footer), labels=Counter(footer.get("labels", {})))


@dataclass
class Record:
    """What became of a unit: the only thing about it that reaches the driver.

    `ours` is false if another run had committed it first; then only its rows are counted.
    """

    unit: str
    ours: bool
    counts: Counts
