"""Ray Data as its documentation shows batch inference: a pipeline in a pool of actors."""

import os

import numpy as np
import ray
import torch

from benchmarks.alternatives.plumbing import MAX_LENGTH, Clock, arguments


class Classifier:
    def __init__(self, model: str):
        from transformers import pipeline

        self._classify = pipeline("text-classification", model=model, dtype=torch.float32)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        texts = batch.pop("text").tolist()
        answers = self._classify(texts, truncation=True, max_length=MAX_LENGTH, batch_size=32)
        batch["label"] = np.array([answer["label"] for answer in answers])
        batch["score"] = np.array([answer["score"] for answer in answers])
        return batch


def main() -> None:
    clock = Clock()
    model, source, target = arguments()
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    actors = max(len(os.sched_getaffinity(0)) - 1, 1)  # the reader and the writer need a core
    clock.ready()
    texts = ray.data.read_parquet(source)
    answers = texts.map_batches(
        Classifier,
        fn_constructor_args=(model,),
        batch_size=32,
        compute=ray.data.ActorPoolStrategy(size=actors),
    )
    answers.write_parquet(target)
    clock.report(texts.count())


if __name__ == "__main__":
    main()
