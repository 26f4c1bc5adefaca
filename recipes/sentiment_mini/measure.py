"""Measures a saved model: accuracy, recall of either label, calibration; by set and by length."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from bertbatch import score
from bertbatch.checks.metrics import wilson
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


def answered(folder: Path, texts: list[Text]) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of a saved model, by bertbatch's own run."""
    table = score(
        [text for text, _ in texts], str(folder.resolve()), settings={"model.dtype": "float32"}
    ).table
    winner = torch.tensor(table["score"].to_pylist(), dtype=torch.float64).logit()
    positive = torch.tensor([label == "positive" for label in table["label"].to_pylist()])
    return torch.where(positive, winner, -winner), torch.tensor(table["n_tokens"].to_pylist())


def figures(found: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """The figures of one set, with 95 % intervals of what is a share of rows."""
    positive = found > 0
    of = {
        "accuracy": positive.long() == labels,
        "recall_negative": ~positive[labels == 0],
        "recall_positive": positive[labels == 1],
    }
    result: dict[str, Any] = {"rows": len(labels)}
    for name, right in of.items():
        count, rows = int(right.sum()), len(right)
        result[name] = round(count / rows, 4)
        result[f"{name}_interval"] = [round(end, 4) for end in wilson(count, rows)]
    result["balanced"] = round(sum(recalls(found, labels)) / 2, 4)
    result["calibration_error"] = round(calibration_error(found, labels), 4)
    return result


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


def measure(folder: Path, sets: dict[str, list[Text]]) -> dict[str, Any]:
    """The figures of every set, and of its lengths where there are several."""
    result: dict[str, Any] = {}
    for name, texts in sets.items():
        found, lengths = answered(folder, texts)
        labels = torch.tensor([label for _, label in texts])
        result[name] = figures(found, labels)
        by_length = {}
        for low, high in pairwise(LENGTHS):
            here = (lengths >= low) & (lengths < high)
            if 50 <= here.sum() < len(labels) and 0 < labels[here].sum() < here.sum():
                by_length[f"{low} to {high - 1} tokens"] = figures(found[here], labels[here])
        print_figures(name, result[name])
        for length, of_length in by_length.items():
            print_figures(f"  {length}", of_length)
        if by_length:
            result[name]["by_length"] = by_length
    return result


def print_figures(name: str, of: dict[str, Any]) -> None:
    low, high = of["accuracy_interval"]
    print(
        f"{name}: {of['rows']:,} rows, accuracy {of['accuracy']:.3f} ({low:.3f} to {high:.3f}), "
        f"recall {of['recall_negative']:.3f} / {of['recall_positive']:.3f}, "
        f"balanced {of['balanced']:.3f}, calibration error {of['calibration_error']:.3f}",
        flush=True,
    )
