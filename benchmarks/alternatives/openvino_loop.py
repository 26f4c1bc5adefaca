"""The loop by hand on OpenVINO, which fuses more than torch does: all threads, no Ray, and bf16
or fp32, whichever this processor is faster in."""

import os

import numpy as np
import openvino as ov
import torch
from transformers import AutoModelForSequenceClassification

from benchmarks.alternatives import plumbing


def compiled(name: str, threads: int, half: bool) -> plumbing.Forward:
    """The model of a folder, in bfloat16 or float32."""
    # Only eager attention can be traced with lengths left open.
    model = AutoModelForSequenceClassification.from_pretrained(
        name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    example = torch.ones((2, 8), dtype=torch.int64)
    converted = ov.convert_model(
        model, example_input={"input_ids": example, "attention_mask": example}
    )
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
    }
    request = ov.Core().compile_model(converted, "CPU", settings).create_infer_request()

    def logits(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.array(request.infer([ids, mask], share_inputs=True)[0])

    return logits


def main() -> None:
    clock = plumbing.Clock()
    name, source, target = plumbing.arguments()
    half = plumbing.fast_dtype() == torch.bfloat16
    forward = compiled(name, len(os.sched_getaffinity(0)), half)
    plumbing.loop(clock, name, source, target, forward)


if __name__ == "__main__":
    main()
