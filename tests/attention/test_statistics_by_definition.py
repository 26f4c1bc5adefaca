"""Attention statistics against their definition: transformers' own weights, in float64."""

from collections import Counter

import numpy as np
import pytest
import torch
import transformers

from bertbatch.engines import tiled_attention
from bertbatch.errors import JobError
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from bertbatch.model.token_kinds import token_classes
from bertbatch.model.tokens import Batch
from bertbatch.statistics.statistic import make_statistics
from tests.helpers.attention_reference import (
    agree,
    agrees,
    engine_with_statistics,
    pairs,
    typical_ids,
)
from tests.helpers.classifiers import LENGTHS, save, some_ids

KINDS = ["bert", "roberta", "xlm-roberta", "electra", "distilbert"]


@pytest.mark.parametrize("queries", ["all", "content"])
@pytest.mark.parametrize("hidden_size", [32, 128])  # too small for the kernels, and not
@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_those_of_transformers_weights(kind, hidden_size, queries, tmp_path):
    spec = save(tmp_path / kind, kind, hidden_size)
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
@pytest.mark.parametrize("tiles", [True, False])
def test_statistics_of_the_packaged_model_agree_up_to_512_tokens(tiles, queries):
    spec = check_model(Model())
    lengths = np.array([512, 400, 129, 128, 64, 63, 17, 9, 3, 2, 2, 1])
    engine = engine_with_statistics(spec, queries=queries)
    if tiles:
        engine._statistics.use_tiles()
    agrees(engine, spec, lengths, lengths, queries)


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
    plain = engine.start(Batch(ids, LENGTHS, LENGTHS)).answer()
    close = 1e-5 * max(1, np.abs(plain).max())
    np.testing.assert_allclose(
        engine.start(Batch(ids, LENGTHS, LENGTHS, with_statistics=True)).answer(), plain, 0, close
    )


def test_a_model_that_cannot_give_statistics_is_refused(tmp_path):
    spec = save(tmp_path / "rembert", "rembert")
    with pytest.raises(JobError, match=r"rembert \(RemBert.*\) cannot give statistics"):
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
            plain = engine.start(Batch(ids, lengths, lengths)).answer()
            assert np.isfinite(plain).all(-1).tolist() == good.tolist()
            assert np.isfinite(running.answer()).all(-1).tolist() == good.tolist()
            assert np.isfinite(running.statistics()[0]).all((1, 2)).tolist() == good.tolist()


def test_an_unknown_word_is_no_special_token(tiny_model):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    made = token_classes(tokenizer, make_statistics(["to_punctuation"]))
    assert np.flatnonzero(made.special).tolist() == [0, 2, 3]
    marks = [
        tokenizer.convert_ids_to_tokens(int(i)) for i in np.flatnonzero(made.kinds["punctuation"])
    ]
    assert sorted(marks) == sorted(".,!?'\"-")
