"""Ray Data by someone who knows: an actor for each core, with one thread and the faster of bf16
and fp32, that sorts a large block's rows by length and batches them under a token budget."""

import os

import numpy as np
import ray
import torch
from transformers import AutoModelForSequenceClassification

from benchmarks.alternatives import plumbing


class Classifier:
    def __init__(self, model: str):
        torch.set_num_threads(1)
        self._name = model
        self._tokenizer = plumbing.load_tokenizer(model)
        self._model = AutoModelForSequenceClassification.from_pretrained(
            model, dtype=plumbing.fast_dtype()
        ).eval()

    @torch.inference_mode()
    def _logits(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        answer = self._model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        return answer.logits.float().numpy()

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tokens = plumbing.tokenize(self._tokenizer, block["text"].tolist())
        labels, scores = plumbing.named(self._name, plumbing.score(self._logits, tokens, 1024))
        return {"row": block["row"], "label": np.array(labels), "score": np.array(scores)}


def main() -> None:
    clock = plumbing.Clock()
    model, source, target = plumbing.arguments()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would take the actors' cores
    cores = len(os.sched_getaffinity(0))
    # Ray Data's reading and writing ask for a whole CPU, and would wait for ever if the actors
    # had them all; they need little, so they get one that is not there.
    ray.init(address="local", num_cpus=cores + 1, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    clock.ready()
    # Blocks enough to keep every actor busy to the end, and large enough to sort well.
    texts = ray.data.read_parquet(source).repartition(4 * cores)
    answers = texts.map_batches(
        Classifier,
        fn_constructor_args=(model,),
        batch_size=None,  # whole blocks
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=cores),
    )
    answers.write_parquet(target)
    clock.report(texts.count())


if __name__ == "__main__":
    main()
