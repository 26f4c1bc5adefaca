"""What attention statistics are by their definitions: of transformers' own weights, in float64."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers

from bertbatch.engines.attention_stats import AttentionStats
from bertbatch.job.model import Model
from bertbatch.model.locate import locate
from bertbatch.model.spec import ModelSpec
from bertbatch.model.token_kinds import TokenClasses
from bertbatch.model.tokens import Batch
from bertbatch.registry import STATISTICS
from bertbatch.statistics.statistic import make_statistics
from tests.helpers.classifiers import some_ids
from tests.helpers.tiny import settled

CLS, SEP, COMMA = 2, 3, 7


def classes(size: int = 30_522) -> TokenClasses:
    ids = np.arange(size)
    kinds = {"cls": ids == CLS, "sep": ids == SEP, "punctuation": np.isin(ids, [COMMA, 9])}
    return TokenClasses(ids <= 4, kinds)


def typical_ids(lengths: np.ndarray, pair_starts: np.ndarray) -> np.ndarray:
    """[CLS] … [SEP] … [SEP], or what of it there is room for."""
    ids = some_ids(lengths, first=5)
    for start, length, second in zip(
        np.cumsum(lengths) - lengths, lengths, pair_starts, strict=True
    ):
        ids[start] = CLS
        if length > 1:
            ids[start + second - 1] = ids[start + length - 1] = SEP
    return ids


def weights(spec: ModelSpec, ids: np.ndarray, second: int) -> np.ndarray:
    """One text's attention by transformers in float64: [layers, heads, n, n]"""
    model = oracle(str(locate(spec.name, None)[0]))
    inputs = {"input_ids": torch.from_numpy(ids.astype(np.int64))[None]}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = (torch.arange(len(ids)) >= second).long()[None]
    with torch.inference_mode():
        answer = model(**inputs, output_attentions=True)
    return np.concatenate([layer.numpy() for layer in answer.attentions])


@functools.lru_cache(maxsize=2)
def oracle(name: str) -> Any:
    return transformers.AutoModelForSequenceClassification.from_pretrained(
        name, dtype=torch.float64, attn_implementation="eager"
    ).eval()


def by_definition(p: np.ndarray, ids: np.ndarray, second: int, content: bool) -> dict[str, Any]:
    """Every statistic of one text by its formula: [layers, heads], and the queries behind it."""
    n = len(ids)
    i, j = np.arange(n)[:, None], np.arange(n)
    counted = ids > 4 if content else np.ones(n, bool)
    segment = j >= second
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(p > 0, p * np.log(p), 0).sum(-1)
        mean_over = {
            "entropy": (entropy, counted),
            "normalized_entropy": (entropy / np.log(n), counted & (n > 1)),
            "max_weight": (p.max(-1), counted),
            "concentration": ((p**2).sum(-1), counted),
            "mean_distance": ((p * abs(i - j)).sum(-1), counted),
            "to_cls": (p[..., ids == CLS].sum(-1), counted),
            "to_sep": (p[..., ids == SEP].sum(-1), counted),
            "to_punctuation": (p[..., np.isin(ids, [COMMA, 9])].sum(-1), counted),
            "to_previous": ((p * (j == i - 1)).sum(-1), counted & (j > 0)),
            "to_self": ((p * (j == i)).sum(-1), counted),
            "to_next": ((p * (j == i + 1)).sum(-1), counted & (j < n - 1)),
            "to_other_segment": (
                (p * (segment[:, None] != segment)).sum(-1), counted & (second < n),
            ),
        }  # fmt: skip
    out = {
        name: (v[..., c].sum(-1) / max(c.sum(), 1), c.sum()) for name, (v, c) in mean_over.items()
    }
    received = p[..., counted, :].sum(-2) / max(counted.sum(), 1)
    over = received[..., counted].sum(-1) / max(counted.sum(), 1)
    out["received_mean"] = (over, counted.sum())
    out["received_max"] = (received.max(-1), counted.sum())
    return out


def engine_with_statistics(spec: ModelSpec, dtype: str = "float32", queries: str = "all") -> Any:
    stats = AttentionStats(make_statistics(list(STATISTICS)), classes(), queries, 1)
    return settled(spec, Model(dtype=dtype), statistics=stats)


def types_of(lengths: np.ndarray, pair_starts: np.ndarray) -> np.ndarray:
    """The token types of texts whose second ones start there."""
    return np.concatenate([np.arange(n) >= s for n, s in zip(lengths, pair_starts, strict=True)])


Both = Iterator[tuple[str, np.ndarray, np.ndarray]]


def pairs(
    engine: Any,
    spec: ModelSpec,
    lengths: np.ndarray,
    pair_starts: np.ndarray,
    content: bool = False,
) -> Both:
    """Each statistic that is defined for each text: its name, ours, the wanted"""
    ids = typical_ids(lengths, pair_starts)
    types = types_of(lengths, pair_starts)
    batch = Batch(ids, lengths, pair_starts, types, with_statistics=True)
    values, counts = engine.start(batch).statistics()
    rows = np.split(ids, np.cumsum(lengths)[:-1])
    for row, (text, second) in enumerate(zip(rows, pair_starts, strict=True)):
        expected = by_definition(weights(spec, text, second), text, second, content)
        for k, name in enumerate(STATISTICS):
            wanted, count = expected[name]
            assert counts[row, k] == count, (row, name)
            if count:
                yield name, values[row, k].reshape(wanted.shape), wanted


def agree(
    spec: ModelSpec, lengths: np.ndarray, pair_starts: np.ndarray, queries: str = "all"
) -> None:
    engine = engine_with_statistics(spec, queries=queries)
    agrees(engine, spec, lengths, pair_starts, queries)


def agrees(
    engine: Any, spec: ModelSpec, lengths: np.ndarray, pair_starts: np.ndarray, queries: str
) -> None:
    for name, ours, wanted in pairs(engine, spec, lengths, pair_starts, queries == "content"):
        np.testing.assert_allclose(ours, wanted, 1e-4, 1e-6, err_msg=name)
