"""transformers' own pipeline, in fp32 and batches of 32 as the rows come."""

import torch
from transformers import pipeline

from benchmarks.alternatives.plumbing import MAX_LENGTH, Clock, arguments, read, write


def main() -> None:
    clock = Clock()
    model, source, target = arguments()
    classify = pipeline("text-classification", model=model, dtype=torch.float32)
    clock.ready()
    answers = classify(read(source), batch_size=32, truncation=True, max_length=MAX_LENGTH)
    write(target, [a["label"] for a in answers], [a["score"] for a in answers])
    clock.report(len(answers))


if __name__ == "__main__":
    main()
