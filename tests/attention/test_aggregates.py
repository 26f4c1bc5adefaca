"""Cells of attention statistics: made of rows, merged in any split and order; samples."""

import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from bertbatch import JobError
from bertbatch.attention.aggregates import (
    ALL,
    BINS,
    LABEL,
    Group,
    aggregate,
    length_groups,
    value_groups,
)
from bertbatch.attention.corpus import Corpus
from bertbatch.attention.row_columns import of_pieces
from bertbatch.attention.sample import sampled
from bertbatch.engines.scoring import Scored, Statistics

NAMES, TOPS = ["entropy", "to_cls"], [4.0, 1.0]
LAYERS, HEADS = 2, 3


def some(texts: int, rows: int, seed: int = 0) -> Statistics:
    """Made-up statistics: some rows unwatched, some texts repeated, some undefined."""
    rng = np.random.default_rng(seed)
    values = rng.random((texts, 2, LAYERS * HEADS)).astype(np.float32) * [[[4.0], [1.0]]]
    counts = rng.integers(0, 30, (texts, 2)).astype(np.int32)
    return Statistics(values.astype(np.float32), counts, rng.integers(-1, texts, rows))


def groups(n_tokens: np.ndarray, labels: np.ndarray) -> list[Group]:
    each = [Group(LABEL, label, labels == label) for label in ("a", "b")]
    return [Group(ALL, "", np.ones(len(labels), bool)), *each, *length_groups(n_tokens)]


def merged(cells: list[pa.Table]) -> Corpus:
    corpus = Corpus(LAYERS, HEADS, dict(zip(NAMES, TOPS, strict=True)))
    for table in cells:
        corpus.add(table)
    return corpus


def cut(statistics: Statistics, rows: slice) -> Statistics:
    return Statistics(statistics.values, statistics.counts, statistics.text[rows])


@pytest.mark.parametrize("seed", range(5))
def test_any_split_and_order_gives_the_same_aggregates(seed):
    rng = random.Random(seed)
    statistics = some(150, 400, seed)
    n_tokens = np.random.default_rng(seed).integers(1, 200, 400)
    labels = np.array([rng.choice("ab") for _ in range(400)])
    whole = merged([aggregate(NAMES, TOPS, statistics, groups(n_tokens, labels))])
    edges = [0, *sorted(rng.sample(range(1, 400), rng.randint(1, 30))), 400]
    parts = [slice(a, b) for a, b in pairwise(edges)]
    rng.shuffle(parts)
    tables = [
        aggregate(NAMES, TOPS, cut(statistics, p), groups(n_tokens[p], labels[p])) for p in parts
    ]
    split = merged(tables)
    assert split.keys.keys() == whole.keys.keys()
    for key in whole.keys:
        ours, theirs = split.aggregate(key), whole.aggregate(key)
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], 1e-9, 1e-9, err_msg=name)
    for name in NAMES:
        assert (split.histograms[name] == whole.histograms[name]).all()


def test_aggregates_are_what_numpy_says_of_the_rows():
    statistics = some(40, 300)
    n_tokens = np.full(300, 20)
    labels = np.array(list("ab") * 150)
    corpus = merged([aggregate(NAMES, TOPS, statistics, groups(n_tokens, labels))])
    for k, name in enumerate(NAMES):
        for kind, value, member in (("all", "", labels != ""), ("label", "b", labels == "b")):
            text = statistics.text[member & (statistics.text >= 0)]
            text = text[statistics.counts[text, k] > 0]
            x = statistics.values[text, k].astype(np.float64)
            tokens = statistics.counts[text, k].astype(np.float64)
            cell = corpus.aggregate((kind, value, name))
            assert (cell["rows"], cell["tokens"]) == (len(x), tokens.sum())
            np.testing.assert_allclose(cell["mean"], x.mean(0), 1e-12)
            np.testing.assert_allclose(cell["m2"], x.var(0) * len(x), 1e-9)
            mean = np.average(x, axis=0, weights=tokens)
            np.testing.assert_allclose(cell["token_mean"], mean, 1e-12)
            m2 = (tokens[:, None] * (x - mean) ** 2).sum(0)
            np.testing.assert_allclose(cell["token_m2"], m2, 1e-9)
            assert (cell["min"] == x.min(0)).all()
            assert (cell["max"] == x.max(0)).all()
            if kind == "all":
                bins = [np.histogram(x[:, h], BINS, (0, TOPS[k]))[0] for h in range(6)]
                assert (corpus.histograms[name] == bins).all()


def test_a_rows_own_text_is_found_again_over_pieces_with_a_poison_row_between():
    logits = np.zeros((2, 2), np.float32)
    first, second = some(3, 2, 1), some(4, 2, 2)
    pieces = [Scored(logits, 0, 0, first), Scored(logits, 0, 0), Scored(logits, 0, 0, second)]
    kept = np.array([True, True, False, True, True, True, True])
    all_ = of_pieces(pieces, kept, (2, LAYERS * HEADS))
    assert all_.text[[2, 3, 4]].tolist() == [-1] * 3
    for rows, piece in (([0, 1], first), ([5, 6], second)):
        for row, text in zip(rows, piece.text, strict=True):
            assert (all_.text[row] < 0) == (text < 0)
            if text >= 0:
                assert (all_.values[all_.text[row]] == piece.values[text]).all()


def test_what_nobody_uses_may_be_no_number():
    statistics = some(40, 300)
    statistics.values[7] = np.nan
    statistics.counts[7] = 5
    statistics.text[statistics.text == 7] = -1  # its rows are in quarantine
    cells = aggregate(NAMES, TOPS, statistics, groups(np.full(300, 20), np.array(list("ab") * 150)))
    for name in ("mean", "m2", "token_mean", "min", "max"):
        assert np.isfinite(cells[name].combine_chunks().flatten().to_numpy()).all()


def test_rows_are_grouped_by_a_columns_values():
    twice = pa.DictionaryArray.from_arrays([0, 1, 2, None, 3], ["x", "x", "²", None])
    found = value_groups("column", np.arange(5), twice, 5)
    assert {g.value: g.member.tolist() for g in found} == {
        "x": [True, True, False, False, False],
        "²": [False, False, True, False, False],
    }
    tables = [aggregate(NAMES, TOPS, some(9, 5), [*found, Group(ALL, "", np.ones(5, bool))])]
    assert set(merged(tables).tidy()["value"].to_pylist()) == {"", "x", "²"}
    many = pa.array(range(1001))
    with pytest.raises(JobError, match="1,001 different values"):
        value_groups("column", np.arange(1001), many, 1001)


def test_samples_are_stable_and_of_the_asked_share():
    ids, source, row = ["a", "b"], np.repeat([0, 1], 50_000), np.tile(np.arange(50_000), 2)
    small, large = (sampled(ids, source, row, share) for share in (0.01, 0.1))
    assert 0.009 < small.mean() < 0.011
    assert (large | ~small).all()  # a larger sample has the smaller one
    again = sampled(["b"], np.zeros(50_000, int), np.arange(50_000), 0.01)
    assert (again == small[50_000:]).all()  # whatever else is in the unit
    assert sampled(ids, source, row, 1.0).all()
