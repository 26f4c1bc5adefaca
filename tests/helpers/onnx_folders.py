"""Folders as exporters to ONNX write them: a graph, config.json, a tokenizer, and no weights."""

import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

NAMES = ("input_ids", "attention_mask", "token_type_ids")


class _Logits(torch.nn.Module):
    def __init__(self, model: Any, names: tuple[str, ...]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def to_onnx(folder: Path, kind: str = "AutoModelForSequenceClassification", below: str = "") -> str:
    """Puts a graph in the place of a model's weights, which move to `folder`/../weights."""
    model = getattr(transformers, kind).from_pretrained(folder, attn_implementation="eager").eval()
    types = getattr(model.config, "type_vocab_size", 0) > 1
    names = NAMES if types else NAMES[:2]
    example = torch.randint(5, 40, (2, 7))
    inputs = (example, torch.ones_like(example), torch.zeros_like(example))[: len(names)]
    target = folder / below / "model.onnx"
    target.parent.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Logits(model, names).eval(), inputs, str(target), dynamo=False,
            input_names=list(names), output_names=["logits"],
            dynamic_axes={name: {0: "rows", 1: "length"} for name in names},
        )  # fmt: skip
    kept = folder.with_name(f"{folder.name}-weights")
    kept.mkdir()
    for path in folder.glob("*"):
        if path.is_file() and path.suffix != ".onnx":
            (kept / path.name).write_bytes(path.read_bytes())
    (folder / "model.safetensors").unlink()
    return str(kept)
