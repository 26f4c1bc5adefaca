"""Everything that changes the weights of sentiment-mini."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """The settings of the recipe; `--set name=value` overrides one."""

    seed: int = 20261130
    epochs: int = 5
    size: float = 1.0  # share of an epoch's rows; less only to try something out
    # Rows of an epoch, by kind; all movie sentences and a window of every review are in each.
    snippets: int = 5000
    everyday: int = 6000
    neutral: int = 1000
    composed: int = 1200
    prose: int = 0  # in the branches alone
    snippets_framed: float = 0.4  # share of the snippets that stand among neutral sentences
    noise: float = 0.5  # share of everyday rows with names, addresses, tags; of others a quarter
    neutral_target: float = 0.57  # a little above one half: most everyday text means well
    opposite_max: float = 0.4  # the largest share of a composed review that contradicts its label
    break_share: float = 0.15  # chance of an HTML line break behind a sentence of a review
    max_tokens: int = 400
    batch_tokens: int = 4096
    batch_rows: int = 32
    lr: float = 1.6e-4
    head_lr: float = 3e-4
    layer_decay: float = 0.95
    warmup: float = 0.06
    weight_decay: float = 0.01
    label_smoothing: float = 0.05
    hidden_dropout: float = 0.1
    average: float = 0.998  # decay a step of the averaged weights, which are what is saved
    candidates: int = 4  # averaged weights kept in the second half, of which one is chosen
    development_rows: int = 1000  # at most so many texts of a kind to choose with


# The branches: what differs from the long training.
BRANCH_SIZE = 0.6  # of an epoch of the long training
SHORT: dict[str, Any] = {
    "epochs": 1, "average": 0.99, "candidates": 1, "lr": 6e-5, "head_lr": 6e-5,
    "neutral_target": 0.6,
}  # fmt: skip
BRANCHES: list[dict[str, Any]] = [
    {**SHORT, "seed": 1, "prose": 13_000},
    {**SHORT, "seed": 2, "prose": 9_000, "snippets": 9_000},
]
