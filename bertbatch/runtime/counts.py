"""What is counted of a unit's rows."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counts:
    """What can be counted of scored and quarantined rows.

    `real_tokens` and `computed_tokens`: of the forward passes, without and with padding.
    `unknown` and `content`: tokens outside the vocabulary, and all that are not special.
    `unlabelled`: scored rows without a label, if the task has labels.
    """

    rows_scored: int = 0
    rows_quarantined: int = 0
    tokens: int = 0
    real_tokens: int = 0
    computed_tokens: int = 0
    truncated: int = 0
    unknown: int = 0
    content: int = 0
    unlabelled: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def rows(self) -> int:
        return self.rows_scored + self.rows_quarantined

    @property
    def padding(self) -> float:
        """The share of the computed tokens that is padding."""
        return 1 - self.real_tokens / self.computed_tokens if self.computed_tokens else 0.0

    def add(self, other: "Counts") -> None:
        for name in Counts.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass
class Record:
    """What became of a unit: the only thing about it that reaches the driver.

    `ours` is false if another run had committed it first; then only its rows are counted.
    """

    unit: str
    ours: bool
    counts: Counts
