"""The operators of a layer on this processor, in turns: `python -m benchmarks.kernels`.

Linear layers of MiniLM and bert-base by every operator, and attention by every one, on one thread.
The least time of each counts: whatever else runs only adds.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.report import Report
from bertbatch.engines.fused_linear import Place
from bertbatch.engines.int8 import Int8Linear
from bertbatch.engines.linear_operators import LINEAR
from bertbatch.engines.operators import BMM, NATIVE, TORCH, layout_by

SHAPES = ((384, 384), (384, 1536), (1536, 384), (768, 768), (768, 3072), (3072, 768))
TOKENS = {torch.float32: 1024, torch.bfloat16: 2048}
SEQUENCES = ((512, 4), (128, 16), (32, 64), (20, 100))  # length, how many
HEADS, SIZE = 12, 64
ROUNDS = 15


def seconds(ways: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """The least seconds of each, in turns."""
    least = dict.fromkeys(ways, float("inf"))
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                least[name] = min(least[name], time.perf_counter() - began)
    return least


def linear_ways(dtype: torch.dtype, inputs: int, outputs: int, follows: str) -> dict[str, Any]:
    layer = nn.Linear(inputs, outputs, dtype=dtype).requires_grad_(False)
    x = torch.randn(TOKENS[dtype], inputs).to(dtype)
    residual = torch.randn(TOKENS[dtype], outputs).to(dtype)
    place = Place(None, "", layer, follows)
    kinds: dict[str, Any] = dict(LINEAR)
    if dtype == torch.float32:
        kinds["int8"] = Int8Linear
    ways: dict[str, Any] = {}
    for name, kind in kinds.items():
        try:
            made = kind(place.layer, "gelu" if follows == "gelu" else "none")
            run = (lambda m: m.plus(x, residual)) if follows == "residual" else (lambda m: m(x))
            run(made)
        except (AttributeError, RuntimeError, ValueError):
            continue
        ways[name] = lambda m=made, run=run: run(m)
    return ways


def attention_ways(dtype: torch.dtype, length: int, count: int) -> dict[str, Any]:
    lengths = np.full(count, length)
    total = length * count
    query, key, value = torch.randn(total, 3, HEADS, SIZE).to(dtype).unbind(1)
    ways: dict[str, Any] = {}
    for name in (NATIVE, BMM, TORCH):
        try:
            layout = layout_by(name)(lengths, total, "cpu")
            layout.attend(query, key, value, None)
        except (RuntimeError, ValueError):
            continue
        ways[name] = lambda layout=layout: layout.attend(query, key, value, None)
    return ways


def main() -> None:
    torch.set_num_threads(1)
    report = Report("Operators of a layer")
    for dtype in TOKENS:
        rows = []
        for inputs, outputs in SHAPES:
            follows = "gelu" if outputs > inputs else "residual"
            found = seconds(linear_ways(dtype, inputs, outputs, follows))
            work = 2e-9 * TOKENS[dtype] * inputs * outputs
            each = ", ".join(f"{name} {work / took:,.0f}" for name, took in found.items())
            rows.append((f"{inputs} → {outputs}, {follows}", each))
        report.table(
            f"linear layers, {dtype}, {TOKENS[dtype]:,} tokens", ("layer", "GFLOP/s"), rows
        )
        rows = []
        for length, count in SEQUENCES:
            found = seconds(attention_ways(dtype, length, count))
            each = ", ".join(f"{name} {1e3 * took:.2f}" for name, took in found.items())
            rows.append((f"{count} of {length} tokens", each))
        report.table(f"attention, {dtype}, {HEADS} heads of {SIZE}", ("sequences", "ms"), rows)


if __name__ == "__main__":
    main()
