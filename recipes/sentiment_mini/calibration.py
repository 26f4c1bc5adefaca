"""One temperature and one class bias, fitted on texts of every kind and folded into the head.

A margin is logit(positive) - logit(negative). The bias is added to it, then the temperature
divides it. Neither knows the length or the kind of a text.
"""

from dataclasses import dataclass
from typing import Any

import torch

BIASES = torch.arange(-2.0, 2.001, 0.02)
TEMPERATURES = torch.arange(0.4, 2.501, 0.01)

Margins = dict[str, tuple[torch.Tensor, torch.Tensor]]  # by kind: margins, labels


@dataclass(frozen=True)
class Calibration:
    bias: float
    temperature: float


def recalls(margins: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """The shares of negatives and of positives that are found."""
    positive = margins > 0
    negatives, positives = ~positive[labels == 0], positive[labels == 1]
    return negatives.float().mean().item(), positives.float().mean().item()


def fit(margins: Margins) -> Calibration:
    """The bias that brings the recalls together, and the temperature with the lowest log loss."""

    def gaps(bias: float) -> float:
        pairs = (recalls(values + bias, labels) for values, labels in margins.values())
        return sum(((negative - positive) ** 2 for negative, positive in pairs), 0.0)

    def log_loss(temperature: float) -> float:
        return sum(
            torch.nn.functional.binary_cross_entropy_with_logits(
                (values + bias) / temperature, labels.float()
            ).item()
            for values, labels in margins.values()
        )

    biases: list[float] = BIASES.tolist()
    temperatures: list[float] = TEMPERATURES.tolist()
    bias = min(biases, key=gaps)
    temperature = min(temperatures, key=log_loss)
    return Calibration(round(bias, 2), round(temperature, 2))


def score(margins: Margins, bias: float) -> float:
    """What a checkpoint is chosen by: the worse recall of every kind, in the mean."""
    worse = [min(recalls(values + bias, labels)) for values, labels in margins.values()]
    return sum(worse) / len(worse)


@torch.no_grad()
def fold(model: Any, found: Calibration) -> None:
    """Change the head so that its logits are the calibrated ones."""
    head = model.classifier
    head.bias += torch.tensor([-found.bias / 2, found.bias / 2])
    head.weight /= found.temperature
    head.bias /= found.temperature
