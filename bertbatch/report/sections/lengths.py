"""How long texts are, how many were cut, what the vocabulary lacks."""

import numpy as np

from bertbatch.report.blocks import Block, Section, Table, share, whole
from bertbatch.report.charts import histogram
from bertbatch.report.material import Material

BINS = 40


def lengths(material: Material) -> Section | None:
    found = material.scan
    if not found.tokens.sum():
        return None
    blocks: list[Block] = [_tokens(found.tokens)]
    edges = np.linspace(0, 1, len(found.unknown) + 1)
    if found.unknown_rows:
        blocks.append(histogram("Share of unknown tokens in a text", edges, found.unknown, "share"))
    total = int(found.tokens @ np.arange(len(found.tokens)))
    cumulative = np.cumsum(found.tokens)
    rows = [
        ("tokens", whole(total)),
        ("mean", f"{total / found.rows:.1f}"),
        *(
            (name, whole(int(np.searchsorted(cumulative, share_ * found.rows))))
            for name, share_ in (("median", 0.5), ("95 %", 0.95), ("99 %", 0.99))
        ),
        ("longest", whole(len(found.tokens) - 1)),
        ("truncated texts", f"{found.truncated:,} ({share(found.truncated, found.rows)})"),
        (
            "texts with unknown tokens",
            f"{found.unknown_rows:,} ({share(found.unknown_rows, found.rows)})",
        ),
        ("mean share of unknown tokens", f"{found.unknown_sum / found.rows:.2%}"),
    ]
    blocks.append(Table("Tokens of a text", ("", ""), rows, (1,)))
    return Section("lengths", "Lengths", blocks)


def _tokens(counts: np.ndarray) -> Block:
    longest = len(counts) - 1
    width = max(-(-longest // BINS), 1)
    padded = np.append(counts[1:], np.zeros(-longest % width, np.int64))
    bins = padded.reshape(-1, width).sum(1)
    return histogram("Tokens of a text", np.arange(len(bins) + 1) * width + 1, bins, "tokens")
