"""A careful loop by hand: all rows sorted by length, a token budget, all threads, no Ray, and bf16
or fp32, whichever this processor is faster in."""

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from benchmarks.alternatives import plumbing


@torch.inference_mode()
def main() -> None:
    clock = plumbing.Clock()
    name, source, target = plumbing.arguments()
    model = AutoModelForSequenceClassification.from_pretrained(name, dtype=plumbing.fast_dtype())
    model.eval()

    def logits(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        answer = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        return answer.logits.float().numpy()

    plumbing.loop(clock, name, source, target, logits)


if __name__ == "__main__":
    main()
