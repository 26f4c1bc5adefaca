"""Tiny classifiers of the architectures, and what transformers itself answers."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from bertbatch.job.schema import Model
from bertbatch.model.spec import ModelSpec, check_model
from tests.tiny import make_model

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "initializer_range": 0.5, "num_labels": 3,
}  # fmt: skip

PACKED = ["bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "albert"]
PADDED = ["deberta-v2"]
LENGTHS = np.array([50, 33, 17, 17, 16, 5, 3, 1])


def save(folder: Path, kind: str) -> ModelSpec:
    """A tiny classifier of some architecture; ids up to 90, the padding id is 0 or 1."""
    make_model(folder)  # for its tokenizer
    settings = {**SMALL, "vocab_size": 90, "max_position_embeddings": 70}
    if kind == "distilbert":
        settings = {**settings, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    elif kind in ("electra", "albert"):
        settings["embedding_size"] = 16
    config = transformers.AutoConfig.for_model(kind, **settings)
    torch.manual_seed(3)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return check_model(Model(name=str(folder), max_length=60))


def some_ids(lengths: np.ndarray, first: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(first, 90, lengths.sum()).astype(np.int32)


def one_by_one(
    spec: ModelSpec,
    ids: np.ndarray,
    lengths: np.ndarray,
    dtype: str = "float32",
    device: str = "cpu",
) -> np.ndarray:
    """What transformers answers, without any padding."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        spec.name, dtype=getattr(torch, dtype)
    )
    model.to(device).eval()
    answers = []
    with torch.inference_mode():
        for row in np.split(ids.astype(np.int64), np.cumsum(lengths)[:-1]):
            one = torch.from_numpy(row)[None].to(device)
            logits = model(input_ids=one, attention_mask=torch.ones_like(one)).logits
            answers.append(logits.float().cpu().numpy())
    return np.concatenate(answers)


def allowed(
    spec: ModelSpec, ids: np.ndarray, lengths: np.ndarray, dtype: str, device: str = "cpu"
) -> float:
    """How far answers in a precision may be from float32's: thrice as far as the model's own.

    What rounding does differs much by architecture: ALBERT's shared layers add it up.
    """
    wanted = one_by_one(spec, ids, lengths)
    if dtype == "float32":
        return 1e-4 * max(float(np.abs(wanted).max()), 1.0)
    own = one_by_one(spec, ids, lengths, dtype, device)
    return 3 * float(np.abs(own - wanted).max())
