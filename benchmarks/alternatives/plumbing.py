"""What every alternative does alike: arguments, reading, writing, its closing line.

And for the hand-written loops, what one would copy from one to the next: tokens, batches under
a token budget, padding. None of it is bertbatch's, so that the alternatives stand alone.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer

MAX_LENGTH = 512
BUDGETS = (512, 1024, 2048)  # tokens in a batch; which is best differs by machine and model

Forward = Callable[[np.ndarray, np.ndarray], np.ndarray]  # ids, mask [rows, length] → logits


def arguments() -> tuple[str, str, str]:
    """The model's folder, the input file and the output, from the command line."""
    model, source, target = sys.argv[1:]
    return model, source, target


class Clock:
    """From `main` to the last answer; scoring begins when the model is ready."""

    def __init__(self) -> None:
        self._began = self._scoring = time.perf_counter()

    def ready(self) -> None:
        self._scoring = time.perf_counter()

    def report(self, rows: int) -> None:
        now = time.perf_counter()
        seconds = {"seconds_total": now - self._began, "seconds_scoring": now - self._scoring}
        print(json.dumps({"rows": rows, **{k: round(v, 3) for k, v in seconds.items()}}))


def read(path: str) -> list[str]:
    texts: list[str] = pq.read_table(path, columns=["text"])["text"].to_pylist()
    return texts


def write(path: str, labels: list[str], scores: list[float]) -> None:
    table = {"row": np.arange(len(labels)), "label": labels, "score": np.float32(scores)}
    pq.write_table(pa.table(table), path)


def named(model: str, logits: np.ndarray) -> tuple[list[str], list[float]]:
    """The likeliest class of each row, by the name in the model's config, and its probability."""
    names = json.loads((Path(model) / "config.json").read_text())["id2label"]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return [names[str(i)] for i in shares.argmax(axis=1)], shares.max(axis=1).tolist()


def precisions() -> list[torch.dtype]:
    """What this processor has instructions for; bfloat16 by emulation would take minutes."""
    half = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return [torch.bfloat16, torch.float32] if half else [torch.float32]


def fast_dtype() -> torch.dtype:
    """The precision in which this processor multiplies fastest, as who measured would choose."""
    return max(precisions(), key=lambda dtype: max(product_rates(dtype)))


def product_rates(dtype: torch.dtype, size: tuple[int, int, int] = (512, 768, 768)) -> list[float]:
    """Operations a second of plain matrix products of [rows, inner] and [inner, columns]."""
    rows, inner, columns = size
    a, b = torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype)
    rates = []
    for _ in range(40):
        began = time.perf_counter()
        a @ b
        rates.append(2 * rows * inner * columns / (time.perf_counter() - began))
    return rates


def load_tokenizer(model: str) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_LENGTH)
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]


def batches(tokens: list[list[int]], budget: int) -> Iterator[np.ndarray]:
    """Row numbers, longest first, as many to a batch as the budget allows with padding."""
    lengths = np.array([len(ids) for ids in tokens])
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + max(budget // int(lengths[order[start]]), 1)
        yield order[start:stop]
        start = stop


def pad(tokens: list[list[int]], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows' ids and mask, int64 [rows, longest]."""
    ids = np.zeros((len(rows), max(len(tokens[row]) for row in rows)), np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(tokens[row])] = tokens[row]
        mask[i, : len(tokens[row])] = 1
    return ids, mask


def score(forward: Forward, tokens: list[list[int]], budget: int) -> np.ndarray:
    """Logits [rows, classes] in input order."""
    logits: dict[int, np.ndarray] = {}
    for rows in batches(tokens, budget):
        logits |= zip(rows.tolist(), forward(*pad(tokens, rows)), strict=True)
    return np.stack([logits[row] for row in range(len(tokens))])


def best_budget(forward: Forward, tokens: list[list[int]]) -> int:
    """The fastest of BUDGETS for rows of this corpus: each tried on rows of a common length."""
    length = min(int(np.mean([len(ids) for ids in tokens])), MAX_LENGTH)
    rates = {}
    for budget in BUDGETS:
        ids = np.ones((max(budget // length, 1), length), np.int64)
        forward(ids, ids)  # first calls compile or allocate
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            forward(ids, ids)
            seconds.append(time.perf_counter() - began)
        rates[budget] = ids.size / min(seconds)
    return max(rates, key=rates.__getitem__)


def loop(clock: Clock, model: str, source: str, target: str, forward: Forward) -> None:
    """What follows loading the model: tokenize, find a budget, score, write, report."""
    tokens = tokenize(load_tokenizer(model), read(source))
    budget = best_budget(forward, tokens)
    clock.ready()
    write(target, *named(model, score(forward, tokens, budget)))
    clock.report(len(tokens))
