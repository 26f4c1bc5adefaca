"""Makes a small Japanese sentiment classifier from your own labelled sentences.

`python -m recipes.japanese SENTENCES FOLDER`

SENTENCES is a CSV or Parquet file with the columns `text` and `label` (negative or positive). The
model is a BERT of two layers that starts from random weights, and its words are those that MeCab
finds with unidic-lite; it needs `pip install 'bertbatch[japanese]'`. No Japanese corpus of reviews
was found whose licence lets its weights be shipped, so that the package has no such model.
"""

import argparse
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers

LABELS = ["negative", "positive"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = 3  # how often a word must be there to be in the vocabulary
HELD_OUT = 10  # of so many sentences one is not trained on
MAX_LENGTH = 128
EPOCHS, BATCH, RATE, DECAY, SEED = 5, 32, 5e-4, 0.05, 20261129


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sentences", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    read = pd.read_parquet if given.sentences.suffix == ".parquet" else pd.read_csv
    rows = read(given.sentences)[["text", "label"]].dropna()
    rows = rows[rows["label"].isin(LABELS)].drop_duplicates("text")
    rows = rows.sample(frac=1, random_state=SEED)
    held_out, rows = rows.iloc[::HELD_OUT], rows.drop(rows.index[::HELD_OUT])
    transformers.set_seed(SEED)
    tokenizer = make_tokenizer(rows["text"].tolist(), given.folder)
    model = make_model(len(tokenizer.vocab))
    train(model, tokenizer, rows)
    model.save_pretrained(given.folder)
    tokenizer.save_pretrained(given.folder)
    right = accuracy(model, tokenizer, held_out)
    print(f"{given.folder}: accuracy {right:.3f} on {len(held_out)} held-out sentences")


def make_tokenizer(texts: list[str], folder: Path) -> Any:
    """MeCab's words, in pieces where they are rare: of these every character is known."""
    kind: Any = transformers.BertJapaneseTokenizer
    words: Counter[str] = Counter()
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(SPECIAL) + "\n")
    settings = {
        "word_tokenizer_type": "mecab",
        "mecab_kwargs": {"mecab_dic": "unidic_lite"},
        "model_max_length": MAX_LENGTH,
    }
    mecab = kind(vocabulary, **settings).word_tokenizer
    for text in texts:
        words.update(mecab.tokenize(text))
    letters = sorted({letter for word in words for letter in word})
    known = [word for word, count in words.most_common() if count >= WORDS and len(word) > 1]
    pieces = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *known]
    vocabulary.write_text("\n".join(pieces) + "\n")
    return kind(vocabulary, **settings)


def make_model(words: int) -> Any:
    config = transformers.BertConfig(
        vocab_size=words,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=MAX_LENGTH,
        hidden_dropout_prob=0.3,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    return transformers.BertForSequenceClassification(config)


def train(model: Any, tokenizer: Any, rows: pd.DataFrame) -> None:
    """Both labels count the same, however many sentences each has."""
    shares = rows["label"].value_counts(normalize=True)
    weight = torch.tensor([0.5 / shares[label] for label in LABELS], dtype=torch.float32)
    ids = tokenizer(rows["text"].tolist(), max_length=MAX_LENGTH, truncation=True)["input_ids"]
    examples = list(zip(ids, map(LABELS.index, rows["label"]), strict=True))
    steps = EPOCHS * -(-len(examples) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    shuffled = random.Random(SEED)
    model.train()
    for epoch in range(EPOCHS):
        shuffled.shuffle(examples)
        total = 0.0
        for first in range(0, len(examples), BATCH):
            some, labels = zip(*examples[first : first + BATCH], strict=True)
            inputs = tokenizer.pad({"input_ids": list(some)}, return_tensors="pt")
            logits = model(**inputs).logits
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), weight)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += loss.item() * len(some)
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {total / len(examples):.3f}")
    model.eval()


@torch.inference_mode()
def accuracy(model: Any, tokenizer: Any, rows: pd.DataFrame) -> float:
    cut = {"max_length": MAX_LENGTH, "truncation": True, "return_tensors": "pt"}
    found = [int(model(**tokenizer(text, **cut)).logits.argmax()) for text in rows["text"]]
    return float((rows["label"] == [LABELS[label] for label in found]).mean())


if __name__ == "__main__":
    main()
