"""Texts to score: generated ones with the lengths of known corpora, or your own files.

The generated texts are made of the packaged vocabulary's whole words, so that a row's length
in tokens is exactly what was drawn and nothing is downloaded. A longer file begins with the
rows of a shorter one, so that the difference of two runs is the cost of known rows.
"""

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from benchmarks.models import MAX_LENGTH, PACKAGED

WORKLOADS = ("short", "long", "mixed")
COMMON = 1996  # "the": from here on, the vocabulary is about in the order of frequency


def write_corpus(
    path: Path, workload: str, rows: int, data: Path | None = None, text: str = "text"
) -> list[int]:
    """Writes `rows` unique rows as one Parquet file; the tokens of each, as a model sees them."""
    texts = list(islice(stored(data, text) if data else generated(workload), rows))
    if len(texts) < rows:
        raise SystemExit(f"{data} has {len(texts):,} different texts, but {rows:,} are needed")
    table = pa.table({"row": np.arange(rows), "text": texts})
    pq.write_table(table, path, row_group_size=1024)
    tokenizer = Tokenizer.from_file(str(PACKAGED / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_LENGTH)
    return [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts)]


def generated(workload: str, seed: int = 0) -> Iterator[str]:
    """Endless texts, each only once; words are about as frequent as in English (Zipf)."""
    vocabulary = Tokenizer.from_file(str(PACKAGED / "tokenizer.json")).get_vocab()
    in_order = sorted(vocabulary, key=vocabulary.__getitem__)[COMMON:]
    words = np.array([word for word in in_order if word.isascii() and word.isalpha()])
    chances = np.cumsum(1 / (np.arange(len(words)) + 2.7))
    rng = np.random.default_rng(seed)
    seen: set[str] = set()
    while True:
        count = _tokens(workload, rng) - 2  # without [CLS] and [SEP]
        drawn = np.searchsorted(chances, rng.random(count) * chances[-1])
        text = " ".join(words[drawn])
        if text not in seen:
            seen.add(text)
            yield text


def _tokens(workload: str, rng: np.random.Generator) -> int:
    """Tokens of the next text, special ones included.

    short: SST-2's sentences and fragments, mean 13. long: IMDB's reviews, median 230, one in
    seven longer than 512. mixed: one in five is long.
    """
    if workload == "long" or (workload == "mixed" and rng.random() < 0.2):
        return int(np.clip(rng.lognormal(np.log(230), 0.74), 12, 2500))
    return 2 + int(np.clip(rng.lognormal(np.log(8.7), 0.75), 1, 64))


def stored(folder: Path, column: str) -> Iterator[str]:
    """The different texts of a file, or a folder's Parquet and CSV files, in a fixed order."""
    texts: dict[str, None] = {}
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.*"))
    for path in (file for file in files if file.suffix == ".parquet"):
        texts |= dict.fromkeys(pq.read_table(path, columns=[column])[column].to_pylist())
    for path in (file for file in files if file.suffix == ".csv"):
        with open(path, encoding="utf-8", newline="") as file:
            texts |= dict.fromkeys(record[column] for record in csv.DictReader(file))
    found = np.array([text for text in texts if text], object)
    yield from np.random.default_rng(0).permutation(found)
