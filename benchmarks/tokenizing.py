"""The reader's tokenizing on one core: word by word, and plainly, side by side."""

import os
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.corpora import generated, stored
from benchmarks.report import Report
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from bertbatch.model.tokenizer import Tokenizer

UNIT_BYTES = 1 << 20
UNITS = 16


@dataclass(frozen=True)
class Rates:
    """Tokens/s over all units of a corpus, the first ones included."""

    corpus: str
    tokens: int
    ours: float
    plain: float
    ratios: list[float]  # of each unit

    @property
    def ratio(self) -> float:
        return self.ours / self.plain


def tokenizing(report: Report, fraction: float, data: Path | None, column: str, model: str) -> None:
    """Units of a mebibyte, each tokenized by both ways in turn. The ids are the same."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    found = []
    for name, texts in _corpora(data, column).items():
        units = list(islice(_units(texts), max(int(UNITS * fraction), 2)))
        found.append(_compare(name, units, model))
    report.table(
        "Tokenizing on one core",
        ["texts", "tokens", "tokens/s by words", "plainly", "ratio", "of single units"],
        [
            [f.corpus, f"{f.tokens:,}", f"{f.ours:,.0f}", f"{f.plain:,.0f}", f"{f.ratio:.2f}",
             f"{min(f.ratios):.2f} to {max(f.ratios):.2f}, median {median(f.ratios):.2f}"]
            for f in found
        ],
    )  # fmt: skip
    worst = min(found, key=lambda rates: rates.ratio)
    report.lines(
        f"\nours {worst.ours:.0f} tokens/s, tokenizers {worst.plain:.0f}, ratio {worst.ratio:.2f}"
    )


def _compare(name: str, units: list[list[str]], model: str) -> Rates:
    spec = check_model(Model(name=model) if model else Model())
    ours, plain = Tokenizer(spec), Tokenizer(spec)
    plain.tokenize_plainly()
    for either in (ours, plain):
        either.encode(["what is imported and set up once"])
    seconds: tuple[list[float], list[float]] = ([], [])
    tokens = 0
    for number, texts in enumerate(units):
        made = {}
        for way in (number % 2, 1 - number % 2):
            began = time.process_time()
            made[way] = (ours, plain)[way].encode(texts)
            seconds[way].append(time.process_time() - began)
        assert np.array_equal(made[0].ids, made[1].ids)
        tokens += len(made[0].ids)
    by_words, plainly = map(sum, seconds)
    ratios = [b / a for a, b in zip(*seconds, strict=True)]
    return Rates(name, tokens, tokens / by_words, tokens / plainly, ratios)


def _units(texts: Iterator[str]) -> Iterator[list[str]]:
    unit: list[str] = []
    size = 0
    for text in texts:
        unit.append(text)
        size += len(text.encode())
        if size >= UNIT_BYTES:
            yield unit
            unit, size = [], 0
    if unit:
        yield unit


def _corpora(data: Path | None, column: str) -> dict[str, Iterator[str]]:
    """Whole texts, their first sentences, and one whole text to four first sentences."""
    if data is None:
        return {f"{name}, generated": generated(name) for name in ("long", "short", "mixed")}
    texts = list(stored(data, column))
    short = [sentence for text in texts for sentence in re.split(r"(?<=[.!?]) ", text)]
    random.Random(0).shuffle(short)
    some = random.Random(1)
    return {
        "whole": iter(texts),
        "short": iter(short),
        "mixed": (some.choice(texts if some.random() < 0.2 else short) for _ in iter(int, 1)),
    }
