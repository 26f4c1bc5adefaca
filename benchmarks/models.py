"""The models to score with, and what a forward pass of theirs costs."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGED = ROOT / "bertbatch" / "model" / "packaged" / "sentiment_mini"
CACHE = ROOT / "out" / "benchmarks"
MAX_LENGTH = 512

# Shapes whose weights do not matter for speed: seeded random ones will do.
RANDOM: dict[str, dict[str, Any]] = {
    "bert-base": {},
    "bert-large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
                   "intermediate_size": 4096},
    "tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 64},
}  # fmt: skip
NAMES = ("minilm", "bert-base")  # what `compare` knows


def model_folder(name: str) -> Path:
    """The folder of a model: the packaged one for `minilm`, else made once and kept."""
    if name == "minilm":
        return PACKAGED
    folder = CACHE / "models" / name
    if not folder.is_dir():
        fresh = folder.with_name(f"{name}.{os.getpid()}")
        _make(fresh, RANDOM[name])
        fresh.rename(folder)
    return folder


def _make(folder: Path, settings: dict[str, Any]) -> None:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    names = {0: "negative", 1: "positive"}
    config = BertConfig(**settings, id2label=names, label2id={n: i for i, n in names.items()})
    BertForSequenceClassification(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(PACKAGED / file, folder)


def flops(folder: Path, lengths: Iterable[int]) -> float:
    """Floating-point operations for texts of these lengths, without any padding.

    A token costs layers · (24 d² + 4 S d): the products with weights, and attention to S tokens.
    """
    config = json.loads((folder / "config.json").read_text())
    layers, d = config["num_hidden_layers"], config["hidden_size"]
    return float(sum(s * layers * (24 * d * d + 4 * s * d) for s in lengths))
