"""The labelled texts, and which of them are trained on, chosen with and held out.

Where a text goes hangs on its words alone, so that a sentence that is in two data sets, or twice
in one, is never on both sides of a split.
"""

import csv
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

LABELS = {"negative": 0, "positive": 1}
FOLDS = 10
DEVELOPMENT = 15  # of so many texts that are not held out, one is only chosen with

Text = tuple[str, int]


@dataclass
class Split:
    training: list[Text] = field(default_factory=list)
    development: list[Text] = field(default_factory=list)
    held_out: list[Text] = field(default_factory=list)


def fold_key(text: str) -> str:
    """The text without case, punctuation and spacing: what counts as the same text."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower()).split())


def place(text: str, fold: int) -> str:
    """Which list of a Split the text belongs to."""
    number = int(hashlib.sha256(fold_key(text).encode()).hexdigest(), 16)
    if number % FOLDS == fold:
        return "held_out"
    return "development" if number // FOLDS % DEVELOPMENT == 0 else "training"


def split(texts: Iterable[Text], fold: int) -> Split:
    """Each distinct text once; texts with contradicting labels are dropped."""
    same: dict[str, list[Text]] = {}
    for text, label in texts:
        if key := fold_key(text):
            same.setdefault(key, []).append((text, label))
    parts = Split()
    for rows in same.values():
        if len({label for _, label in rows}) == 1:
            getattr(parts, place(rows[0][0], fold)).append(rows[0])
    return parts


def read_texts(path: Path) -> list[Text]:
    """The rows of a CSV or Parquet file with the columns `text` and `label`.

    A CSV file without their names has a rating in its first column, above 0 for positive, and the
    text in its second: so are the reviews of 2004 stored in the package that has them.
    """
    if path.suffix == ".parquet":
        table = pq.read_table(path, columns=["text", "label"]).to_pydict()
        rows = list(zip(table["label"], table["text"], strict=True))
    else:
        csv.field_size_limit(1 << 30)
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file))
        if set(lines[0]) >= {"label", "text"}:
            label, text = lines[0].index("label"), lines[0].index("text")
            rows = [(line[label], line[text]) for line in lines[1:]]
        else:
            rows = [(int(int(line[0]) > 0), line[1]) for line in lines]
    return [(text, LABELS[label] if label in LABELS else int(label)) for label, text in rows]


def sentences_of(review: str) -> list[str]:
    """The reviews of 2004 have one sentence a line."""
    return [line.strip() for line in review.splitlines() if line.strip()]
