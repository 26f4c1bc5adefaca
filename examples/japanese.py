"""Japanese sentences, positive or negative: one by hand with transformers, all with bertbatch.

`python examples/japanese.py MODEL [SENTENCE ...]`

MODEL is the folder of a Japanese classifier, such as `python -m recipes.japanese` makes.
"""

import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bertbatch import Job, run

SENTENCES = [
    "部屋は広くて、朝食もおいしかった。",
    "部屋が狭くて、朝食も冷たかった。",
    "スタッフの対応がとても丁寧でした。",
    "駅から遠く、値段も高い。",
]


def by_hand(model_name: str, sentence: str) -> str:
    """One sentence with transformers: tokenize, put it on the device, score, take the largest."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    model = AutoModelForSequenceClassification.from_pretrained(model_name).to(device).eval()
    inputs = tokenizer(
        sentence, max_length=128, padding="max_length", truncation=True, return_tensors="pt"
    ).to(device)
    with torch.inference_mode():
        logits = model(**inputs).logits
    label: str = model.config.id2label[int(logits.argmax())]
    return label


def with_bertbatch(model_name: str, sentences: list[str]) -> list[tuple[str, str, float]]:
    """A table of sentences: the same steps, in batches without padding, written exactly once."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "sentences.parquet")
        pq.write_table(pa.table({"text": sentences}), source)
        job = Job.build(
            {
                "input": {"path": str(source), "carry": ["text"]},
                "output": {"path": f"{folder}/out"},
                "model": {"name": model_name, "max_length": 128},
                "runtime": {"runner": "inline"},
            }
        )
        table = run(job).to_pandas()
    return list(zip(table["text"], table["label"], table["score"], strict=True))


def main(model_name: str, *sentences: str) -> None:
    chosen = list(sentences) or SENTENCES
    print(f"by hand: {by_hand(model_name, chosen[0])}")
    for sentence, label, score in with_bertbatch(model_name, chosen):
        print(f"{label} {score:.3f}  {sentence}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
