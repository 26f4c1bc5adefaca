"""Measures a saved model: accuracy, recall of either label, calibration; by set and by length."""

from itertools import pairwise
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from recipes.sentiment_mini.calibration import recalls
from recipes.sentiment_mini.compose import batches
from recipes.sentiment_mini.texts import Text
from recipes.sentiment_mini.training import Model, forward

BATCH_TOKENS = 8192
LENGTHS = (0, 64, 128, 256, 400, 513)  # tokens
BINS = 15


@torch.inference_mode()
def margins(
    model: Model, tokenizer: PreTrainedTokenizerBase, texts: list[Text]
) -> tuple[torch.Tensor, torch.Tensor]:
    """logit(positive) - logit(negative) of every text, and its length; cut at 512 tokens."""
    rows = tokenizer([text for text, _ in texts], truncation=True, max_length=512)["input_ids"]
    lengths = [len(row) for row in rows]
    found = torch.zeros(len(rows))
    for cut in batches(lengths, BATCH_TOKENS, 1024):
        logits = forward(model, [rows[i] for i in cut])
        found[torch.tensor(cut)] = logits[:, 1] - logits[:, 0]
    return found, torch.tensor(lengths)


def figures(found: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """The figures of one set."""
    negative, positive = recalls(found, labels)
    return {
        "rows": len(labels),
        "accuracy": round(((found > 0).long() == labels).float().mean().item(), 4),
        "recall_negative": round(negative, 4),
        "recall_positive": round(positive, 4),
        "balanced": round((negative + positive) / 2, 4),
        "calibration_error": round(calibration_error(found, labels), 4),
    }


def calibration_error(found: torch.Tensor, labels: torch.Tensor) -> float:
    """Expected calibration error of the label with the higher score, in bins of equal width."""
    confidence = torch.sigmoid(found.abs())
    right = ((found > 0).long() == labels).float()
    bins = ((confidence - 0.5) * 2 * BINS).long().clamp(0, BINS - 1)
    error = 0.0
    for number in range(BINS):
        here = bins == number
        if here.any():
            gap = (right[here].mean() - confidence[here].mean()).abs().item()
            error += gap * here.float().mean().item()
    return error


def measure(
    model: Model, tokenizer: PreTrainedTokenizerBase, sets: dict[str, list[Text]]
) -> dict[str, Any]:
    """The figures of every set, and of its lengths where there are several."""
    result: dict[str, Any] = {}
    for name, texts in sets.items():
        found, lengths = margins(model, tokenizer, texts)
        labels = torch.tensor([label for _, label in texts])
        result[name] = figures(found, labels)
        print(name, result[name], flush=True)
        by_length = {}
        for low, high in pairwise(LENGTHS):
            here = (lengths >= low) & (lengths < high)
            if 50 <= here.sum() < len(labels) and 0 < labels[here].sum() < here.sum():
                by_length[f"{low}-{high - 1} tokens"] = figures(found[here], labels[here])
        if by_length:
            result[name]["by_length"] = by_length
    return result
