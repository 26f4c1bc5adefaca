"""Token lengths of a sample of the input, by the tokenizer's file alone.

Neither torch nor transformers is imported. The sample is the same each time: the first rows of
those cuts whose names have the lowest hashes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from bertbatch.errors import SourceError
from bertbatch.inputs import rows
from bertbatch.inputs.rows import Chunk
from bertbatch.model.adapter import model_files
from bertbatch.model.locate import locate
from bertbatch.model.sequences import OVERLAP
from bertbatch.model.spec import ModelSpec
from bertbatch.runtime.preflight import Preflight
from bertbatch.units import Span, Unit, digest

CUTS, ROWS = 16, 250  # that are read: of each cut the first rows
MOST_CHARACTERS = 1 << 16  # of a text; longer ones are scaled up


@dataclass(frozen=True)
class Sample:
    """Rows of the input. `complete` says whether they are all of it."""

    chunks: list[Chunk]
    rows: int  # selected, scorable or not
    left_out: int  # by `input.where`
    complete: bool

    @property
    def selected(self) -> float:
        """The share of the rows that is not left out."""
        return self.rows / (self.rows + self.left_out) if self.left_out else 1.0

    @property
    def selected_error(self) -> float:
        """The standard error of that share."""
        if self.complete or not self.left_out:
            return 0.0
        return sqrt(self.selected * (1 - self.selected) / (self.rows + self.left_out))

    @property
    def reasons(self) -> Counter[str]:
        """Why rows cannot be scored, without their places, with how many they are."""
        found = (why for chunk in self.chunks for why in chunk.bad["reason"].to_pylist())
        return Counter(map(rows.without_place, found))

    @property
    def texts(self) -> list[str]:
        return [text for chunk in self.chunks for text in chunk.texts]

    @property
    def pair_texts(self) -> list[str]:
        return [text for chunk in self.chunks for text in chunk.pair_texts]

    @property
    def text_bytes(self) -> int:
        return sum(len(text.encode("utf-8", "replace")) for text in self.texts + self.pair_texts)

    @property
    def carried_bytes(self) -> int:
        return sum(int(chunk.carried.nbytes) for chunk in self.chunks)


@dataclass(frozen=True)
class Lengths:
    """Tokens of one model's texts, special tokens included.

    `scored_mean`, `scored_error`: the tokens that are scored of a text, over all its windows or
    hypotheses, and the standard error of that mean. `windows` is the mean number of sequences.
    """

    texts: int
    mean: float
    median: float
    p95: float
    longest: int
    max_length: int
    truncated: float  # share of the texts
    unknown: float  # share of the tokens that are not special
    windows: float
    scored_mean: float
    scored_error: float


def read_sample(preflight: Preflight) -> Sample:
    """The sample of a job's planned input; sources that cannot be read are left out."""
    units = [unit for unit in preflight.plan.units.values() if not unit.retry]
    spans = [span for unit in units for span in unit.spans if preflight.as_planned(unit)]
    chosen = sorted(spans, key=_place)[:CUTS]
    context = preflight.context()
    chunks = []
    for span in chosen:
        cut = replace(span.cut, rows=min(span.cut.rows, ROWS), selected=None)
        unit = Unit("sample", (Span(span.source, cut),))
        read = rows.read_units(
            preflight.reader, context.job.input, context.types, [unit], preflight.rules
        )
        try:
            chunks += [chunk for _, some in read for chunk in some]
        except SourceError:
            continue
    complete = len(chosen) == len(spans) and all(span.cut.rows <= ROWS for span in chosen)
    count = sum(len(chunk.row) + chunk.bad.num_rows for chunk in chunks)
    return Sample(chunks, count, sum(chunk.left_out for chunk in chunks), complete)


def _place(span: Span) -> str:
    return digest([span.source.id, span.cut.first_row])


def measure_lengths(sample: Sample, spec: ModelSpec) -> Lengths | None:
    """The lengths of a sample's texts; None without a tokenizer.json, or without texts."""
    path = _tokenizer_file(spec)
    if path is None or not sample.texts:
        return None
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    full, unknown, content = _encoded(tokenizer, sample.texts, sample.pair_texts)
    special = tokenizer.num_special_tokens_to_add(bool(sample.pair_texts))
    scored, windows, truncated = _scored(full, special, spec, tokenizer)
    return Lengths(
        texts=len(full),
        mean=float(full.mean()),
        median=float(np.median(full)),
        p95=float(np.quantile(full, 0.95)),
        longest=int(full.max()),
        max_length=spec.max_length,
        truncated=float(truncated.mean()),
        unknown=unknown / max(content, 1),
        windows=float(windows.mean()),
        scored_mean=float(scored.mean()),
        scored_error=0.0 if sample.complete else float(scored.std() / np.sqrt(len(scored))),
    )


def _tokenizer_file(spec: ModelSpec) -> Path | None:
    root, _ = locate(spec.name, spec.revision, spec.storage_options)
    path = model_files(root, f"model.name {spec.name}").tokenizer / "tokenizer.json"
    return path if path.is_file() else None


def _encoded(
    tokenizer: Any, texts: Sequence[str], pair_texts: Sequence[str]
) -> tuple[np.ndarray, int, int]:
    """Each text's tokens; how many are unknown; how many are not special."""
    model = getattr(tokenizer.model, "unk_token", None)
    unknown_id = tokenizer.token_to_id(model) if model else None
    lengths, unknown, content = [], 0, 0
    for i, text in enumerate(texts):
        pair = pair_texts[i][:MOST_CHARACTERS] if pair_texts else None
        encoding = tokenizer.encode(text[:MOST_CHARACTERS], pair)
        scale = max(len(text) / MOST_CHARACTERS, 1.0)
        ids = encoding.ids
        lengths.append(round(len(ids) * scale))
        unknown += ids.count(unknown_id)
        content += len(ids) - sum(encoding.special_tokens_mask)
    return np.array(lengths, np.int64), unknown, content


def _scored(
    full: np.ndarray, special: int, spec: ModelSpec, tokenizer: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each text: the tokens that are scored, in how many sequences, whether it is truncated."""
    most, asked = spec.max_length, spec.asked
    truncated = full > most
    if asked.task == "zero_shot":
        lines = [asked.hypothesis_template.format(label) for label in asked.candidate_labels]
        sizes = np.array([len(tokenizer.encode(line).ids) - special + 1 for line in lines])
        each = np.minimum(full[:, None] + sizes, most)
        return each.sum(1), np.full(len(full), len(lines)), (full[:, None] + sizes > most).any(1)
    if asked.long_text == "windows":
        room = most - special
        step = max(room - (int(room * OVERLAP) if asked.stride is None else asked.stride), 1)
        windows = 1 + -(-np.maximum(full - most, 0) // step)
        return full + (windows - 1) * (room - step + special), windows, np.zeros(len(full), bool)
    return np.minimum(full, most), np.ones(len(full), np.int64), truncated
