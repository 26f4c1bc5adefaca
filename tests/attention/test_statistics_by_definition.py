"""Attention statistics against their definition: transformers' own weights, in float64."""

import functools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from bertbatch.engines import tiled_attention
from bertbatch.engines.attention_stats import AttentionStats
from bertbatch.errors import JobError
from bertbatch.job.schema import Model
from bertbatch.model.locate import locate
from bertbatch.model.spec import ModelSpec, check_model
from bertbatch.model.token_kinds import TokenClasses, token_classes
from bertbatch.model.tokens import Batch
from bertbatch.registry import STATISTICS
from bertbatch.statistics.statistic import make_statistics
from tests.helpers.classifiers import LENGTHS, save, some_ids
from tests.helpers.tiny import settled

KINDS = ["bert", "roberta", "xlm-roberta", "electra", "distilbert"]
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
    for name, ours, wanted in pairs(engine, spec, lengths, pair_starts, queries == "content"):
        np.testing.assert_allclose(ours, wanted, 1e-4, 1e-6, err_msg=name)


@pytest.mark.parametrize("queries", ["all", "content"])
@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_those_of_transformers_weights(kind, queries, tmp_path):
    spec = save(tmp_path / kind, kind)
    pair_starts = LENGTHS.copy()
    if kind in ("bert", "electra"):
        pair_starts[[0, 2, 3, 5]] = [20, 9, 4, 2]
    agree(spec, LENGTHS, pair_starts, queries=queries)


@pytest.mark.parametrize("tile", [1, 50, 3 * 64, 4 * 17 * 32, 1 << 17])
def test_tiles_change_no_statistic(tile, tmp_path, monkeypatch):
    monkeypatch.setattr(tiled_attention, "CPU_TILE", tile)
    agree(save(tmp_path / "bert", "bert"), LENGTHS, LENGTHS)


@pytest.mark.parametrize("packaged", [False, True])
def test_bfloat16_statistics_are_near(packaged, tmp_path):
    spec = check_model(Model()) if packaged else save(tmp_path / "bert", "bert")
    lengths = np.array([512, 300, 128, 64, 17, 9, 3]) if packaged else LENGTHS
    engine = engine_with_statistics(spec, "bfloat16")
    off, size = Counter[str](), Counter[str]()
    for name, ours, wanted in pairs(engine, spec, lengths, lengths):
        off[name] += ((ours - wanted) ** 2).sum()
        size[name] += (wanted**2).sum()
    for name in size:
        assert off[name] <= (2e-2) ** 2 * size[name], name


@pytest.mark.parametrize("queries", ["all", "content"])
def test_statistics_of_the_packaged_model_agree_up_to_512_tokens(queries):
    spec = check_model(Model())
    lengths = np.array([512, 400, 129, 128, 64, 63, 17, 9, 3, 2, 2, 1])
    agree(spec, lengths, lengths, queries=queries)


def test_one_text_alone_and_in_any_batch_has_the_same(tmp_path):
    engine = engine_with_statistics(save(tmp_path / "bert", "bert"))
    ids = typical_ids(LENGTHS, LENGTHS)
    together, _ = engine.start(Batch(ids, LENGTHS, LENGTHS, with_statistics=True)).statistics()
    for row, text in enumerate(np.split(ids, np.cumsum(LENGTHS)[:-1])):
        length = np.array([len(text)])
        batch = Batch(text, length, length, with_statistics=True)
        alone, _ = engine.start(batch).statistics()
        np.testing.assert_allclose(alone[0], together[row], 1e-5, 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_left_as_they_are(kind, tmp_path):
    engine = engine_with_statistics(save(tmp_path / kind, kind))
    ids = some_ids(LENGTHS)
    plain = engine.start(Batch(ids, LENGTHS, LENGTHS)).logits()
    close = 1e-5 * max(1, np.abs(plain).max())
    np.testing.assert_allclose(
        engine.start(Batch(ids, LENGTHS, LENGTHS, with_statistics=True)).logits(), plain, 0, close
    )


def test_a_model_that_cannot_give_statistics_is_refused(tmp_path):
    spec = save(tmp_path / "deberta-v2", "deberta-v2")
    with pytest.raises(JobError, match=r"deberta-v2 \(DebertaV2.*\) cannot give statistics"):
        engine_with_statistics(spec)


def test_nan_stays_in_its_row(tmp_path):
    spec = save(tmp_path / "bert", "bert")
    engine = engine_with_statistics(spec)
    with torch.no_grad():
        engine._model.base_model.embeddings.word_embeddings.weight[80] = float("inf")
    for lengths, bad in (([16, 16, 16], 1), ([16, 11, 9], 1), ([16, 11, 9], 0)):
        lengths = np.array(lengths)
        ids = np.concatenate([np.full(n, 20 + n) for n in lengths]).astype(np.int32)
        ids[lengths[:bad].sum()] = 80
        good = np.arange(3) != bad
        for _ in range(2):  # the second time there is something in the buffers
            running = engine.start(Batch(ids, lengths, lengths, with_statistics=True))
            plain = engine.start(Batch(ids, lengths, lengths)).logits()
            assert np.isfinite(plain).all(-1).tolist() == good.tolist()
            assert np.isfinite(running.logits()).all(-1).tolist() == good.tolist()
            assert np.isfinite(running.statistics()[0]).all((1, 2)).tolist() == good.tolist()


def test_an_unknown_word_is_no_special_token(tiny_model):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    made = token_classes(tokenizer, make_statistics(["to_punctuation"]))
    assert np.flatnonzero(made.special).tolist() == [0, 2, 3]
    marks = [
        tokenizer.convert_ids_to_tokens(int(i)) for i in np.flatnonzero(made.kinds["punctuation"])
    ]
    assert sorted(marks) == sorted(".,!?'\"-")
