"""A BERT of which one attention head has been changed."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file


def scaled_head(model: str | Path, folder: Path, layer: int, head: int) -> str:
    """The same model, one head's query weights 1.5 times as large; both count from 0."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    size = config["hidden_size"] // config["num_attention_heads"]
    weights = load_file(folder / "model.safetensors")
    rows = slice(head * size, head * size + size)
    for part in ("weight", "bias"):
        name = f"bert.encoder.layer.{layer}.attention.self.query.{part}"
        weights[name] = weights[name].clone()
        weights[name][rows] *= 1.5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)
