"""The loop by hand on ONNX Runtime with dynamic int8 weights, which changes the answers a little.

The quantized model is made by the first run and kept, as one would.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModelForSequenceClassification

from benchmarks.alternatives import plumbing
from benchmarks.models import CACHE


def main() -> None:
    clock = plumbing.Clock()
    name, source, target = plumbing.arguments()
    options = ort.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = ort.InferenceSession(quantized(Path(name)), options, ["CPUExecutionProvider"])

    def logits(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]

    plumbing.loop(clock, name, source, target, logits)


def quantized(folder: Path) -> Path:
    """The model in ONNX with int8 weights."""
    path = CACHE / "onnx" / f"{folder.name}-int8.onnx"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    example = torch.ones((2, 8), dtype=torch.int64)
    open_ends = {0: "rows", 1: "length"}
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        plain, small = Path(scratch, "plain.onnx"), Path(scratch, "small.onnx")
        torch.onnx.export(
            model,
            (example, example),
            str(plain),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_axes={"input_ids": open_ends, "attention_mask": open_ends},
            dynamo=False,
        )
        quantize_dynamic(plain, small, weight_type=QuantType.QInt8)
        small.rename(path)
    return path


if __name__ == "__main__":
    main()
