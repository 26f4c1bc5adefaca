"""Statistics that the kernels for CPUs compute with attention, at each level of instructions."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertbatch.engines import native_statistics
from bertbatch.engines.attention_stats import TiledLayout
from bertbatch.engines.native_statistics import NativeStatistics, NativeStatisticsLayout
from bertbatch.engines.one_pass import PLACES
from bertbatch.model.tokens import Batch
from bertbatch.native.kernels import find_kernels, levels
from bertbatch.registry import STATISTICS
from bertbatch.statistics.statistic import make_statistics
from tests.helpers.attention_reference import (
    by_definition,
    classes,
    engine_with_statistics,
    typical_ids,
)  # fmt: skip
from tests.helpers.classifiers import LENGTHS, save

HERE = [level for level in levels() if find_kernels(level)]
NEAR = {torch.float32: (1e-4, 2e-6), torch.bfloat16: (2e-3, 1e-4)}

needed = pytest.mark.skipif(not HERE, reason="no kernels were built for this processor")
at_each_level = pytest.mark.parametrize(
    ("level", "dtype"), [(level, dtype) for level in HERE for dtype in find_kernels(level).dtypes]
)


def batch(lengths, seconds):
    return Batch(typical_ids(lengths, seconds), lengths, seconds, None, with_statistics=True)


def layout(level, lengths, seconds, *, queries="all", further=0, names=tuple(STATISTICS)):
    made = NativeStatistics(make_statistics(names), classes(), queries == "all")
    found = made.layout(batch(lengths, seconds), int(lengths.sum()) + further, "cpu")
    return replace(found, kernels=find_kernels(level))


def vectors(tokens, heads, size, seed, dtype, factor=1.0):
    made = torch.randn(tokens, 3, heads, size, generator=torch.Generator().manual_seed(seed))
    made[:, 0] *= factor
    return made.to(dtype).unbind(1)


TEXTS = st.lists(
    st.integers(1, 150).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
    min_size=1, max_size=6,
)  # fmt: skip


@needed
@at_each_level
@settings(max_examples=30, deadline=None)
@given(
    texts=TEXTS, heads=st.integers(1, 3), panels=st.integers(1, 2), seed=st.integers(0, 2**31),
    factor=st.sampled_from([0.0, 0.3, 3.0, 30.0]), queries=st.sampled_from(["all", "content"]),
    further=st.integers(0, 20), threads=st.integers(1, 3),
)  # fmt: skip
def test_statistics_are_those_of_the_weights(
    level, dtype, texts, heads, panels, seed, factor, queries, further, threads
):
    lengths, seconds = np.array(texts).T
    size = panels * find_kernels(level).panel
    made = layout(level, lengths, seconds, queries=queries, further=further)
    query, key, value = vectors(lengths.sum() + further, heads, size, seed, dtype, factor)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made.attend(query, key, value, None)
    finally:
        torch.set_num_threads(before)
    values, counts = made.statistics()
    relative, absolute = NEAR[dtype]
    ids = typical_ids(lengths, seconds)
    start = 0
    for row, (length, second) in enumerate(texts):
        own = slice(start, start := start + length)
        q, k = (x[own].double().transpose(0, 1) for x in (query, key))
        p = torch.softmax(q @ k.mT * size**-0.5, -1).numpy()
        expected = by_definition(p, ids[own], second, queries == "content")
        for column, name in enumerate(STATISTICS):
            wanted, count = expected[name]
            assert counts[row, column] == count, name
            if count:
                np.testing.assert_allclose(
                    values[row, column], wanted, relative, absolute * length, err_msg=name
                )


@needed
@at_each_level
def test_answers_are_those_without_statistics(level, dtype):
    size = find_kernels(level).panel
    lengths = np.array([130, 64, 33, 16, 5, 2, 1])
    made = layout(level, lengths, lengths, queries="content")
    parts = vectors(lengths.sum(), 2, size, 0, dtype)
    plain = find_kernels(level).attention(*parts, made.bounds, size**-0.5)
    assert torch.equal(made.attend(*parts, None), plain)


@needed
@at_each_level
@pytest.mark.parametrize("names", [["entropy"], ["received_max", "to_cls"], list(STATISTICS)[::-1]])
def test_some_statistics_are_the_same_as_among_all(level, dtype, names):
    size = find_kernels(level).panel
    parts = vectors(LENGTHS.sum(), 2, size, 0, dtype)
    every, some = layout(level, LENGTHS, LENGTHS), layout(level, LENGTHS, LENGTHS, names=names)
    for made in (every, some):
        made.attend(*parts, None)
    columns = [list(STATISTICS).index(name) for name in names]
    assert torch.equal(some.statistics()[0], every.statistics()[0][:, columns])


@needed
@at_each_level
@pytest.mark.parametrize("where", [0, 1])
def test_what_is_not_a_number_stays_in_its_text(level, dtype, where):
    size = find_kernels(level).panel
    lengths = np.array([40, 20, 7])
    parts = vectors(lengths.sum(), 2, size, 0, dtype)
    clean, broken = layout(level, lengths, lengths), layout(level, lengths, lengths)
    clean.attend(*parts, None)
    parts[where][45] = float("nan")
    broken.attend(*parts, None)
    wanted, got = clean.statistics()[0], broken.statistics()[0]
    entropy = list(STATISTICS).index("entropy")
    assert torch.isnan(got[1, entropy]).all()
    assert torch.equal(got[[0, 2]], wanted[[0, 2]])


def test_every_statistic_has_a_sum():
    assert set(PLACES) == set(STATISTICS)


@needed
def test_what_has_no_sum_is_named():
    statistic = make_statistics(["entropy"])[0]
    statistic.name = "new"
    with pytest.raises(ValueError, match="no kernel for new"):
        NativeStatistics([statistic], classes(), True)


def engine_layout(tmp_path, size):
    """The layout that an engine uses for a model with heads of this size."""
    engine = engine_with_statistics(save(tmp_path / "bert", "bert", hidden_size=4 * size))
    return engine._statistics.layout(batch(LENGTHS, LENGTHS), int(LENGTHS.sum()), "cpu")


@needed
def test_an_engine_uses_them(tmp_path):
    assert isinstance(engine_layout(tmp_path, find_kernels().panel), NativeStatisticsLayout)


@needed
def test_an_engine_uses_tiles_where_they_do_not_fit(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert isinstance(engine_layout(tmp_path, find_kernels().panel // 2 + 2), TiledLayout)
    assert "by tiles, which is slower: there is no kernel for heads of" in caplog.text


@needed
def test_an_engine_uses_tiles_where_answers_differ(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    right = NativeStatisticsLayout.attend

    def wrong(self, query, *others):
        return right(self, 1.01 * query, *others)

    monkeypatch.setattr(native_statistics.NativeStatisticsLayout, "attend", wrong)
    assert isinstance(engine_layout(tmp_path, find_kernels().panel), TiledLayout)
    assert "by tiles, which is slower: they are off by" in caplog.text
