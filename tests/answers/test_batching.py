"""Batches: every row once, within the budget, in an order that wastes little."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertbatch.engines import batching
from bertbatch.engines.batching import (
    SPLITS,
    equal_batches,
    packed_batches,
    padded,
    padded_batches,
    real_places,
)
from bertbatch.model.tokens import first_duplicate, places

lengths_of = st.lists(st.integers(1, 70), min_size=1, max_size=200).map(np.array)
budgets = st.integers(1, 300)


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
@given(lengths_of, budgets)
def test_every_row_is_in_one_batch(split, lengths, budget):
    rows = np.concatenate(list(split(lengths, budget)))
    assert sorted(rows) == list(range(len(lengths)))


@given(lengths_of, budgets)
def test_equal_batches_hold_one_length(lengths, budget):
    for rows in equal_batches(lengths, budget):
        assert len(set(lengths[rows])) == 1
        assert lengths[rows].sum() <= budget or len(rows) == 1


@given(lengths_of, budgets)
def test_packed_batches_keep_the_budget(lengths, budget):
    for rows in packed_batches(lengths, budget):
        assert lengths[rows].sum() <= budget or len(rows) == 1
        assert (np.diff(lengths[rows]) <= 0).all()  # equal lengths are neighbours


@given(lengths_of, st.integers(70, 300))
def test_packed_batches_are_few(lengths, budget):
    sizes = [lengths[rows].sum() for rows in packed_batches(lengths, budget)]
    assert len(sizes) <= 2 * -(-lengths.sum() // budget) + 1


@given(st.lists(st.integers(1, 40), min_size=400, max_size=800).map(np.array), st.integers(2, 16))
def test_a_few_packed_batches_are_even(lengths, count):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "LARGE", 0)
        sizes = [lengths[r].sum() for r in packed_batches(lengths, -(-lengths.sum() // count))]
    assert count <= len(sizes) <= count + 1
    assert max(sizes) - min(sizes) <= 80


@given(lengths_of, budgets)
def test_padded_batches_keep_the_budget(lengths, budget):
    for rows in padded_batches(lengths, budget):
        assert len(rows) * lengths[rows].max() <= budget or len(rows) == 1


@given(lengths_of, budgets)
def test_exact_lengths_that_fill_a_batch_come_first(lengths, budget):
    values, counts = np.unique(lengths, return_counts=True)
    full = sum(
        count // max(budget // value, 1) for value, count in zip(values, counts, strict=True)
    )
    for rows in list(padded_batches(lengths, budget))[:full]:
        assert len(set(lengths[rows])) == 1
        assert len(rows) == max(budget // lengths[rows[0]], 1)


def test_a_real_mix_wastes_less_than_a_hundredth():
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.lognormal(5.4, 0.6, 1000).astype(int) + 10, 512)
    batches = list(packed_batches(lengths, 2048))
    assert len(batches) * 2048 < 1.01 * lengths.sum() + 2048


@given(
    st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=1, max_size=40),
    st.data(),
)
def test_rows_come_out_as_they_went_in(rows, data):
    ids = np.array([i for row in rows for i in row], np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    some = np.array(data.draw(st.lists(st.sampled_from(range(len(rows))), min_size=1)))
    flat = ids[places(offsets, some)]
    assert flat.tolist() == [i for r in some for i in rows[r]]
    for left in (False, True):
        mask = real_places(np.diff(offsets)[some], left)
        filled = padded(flat, mask, 9)
        assert [row[keep].tolist() for row, keep in zip(filled, mask, strict=True)] == [
            rows[r] for r in some
        ]
        assert (filled[~mask] == 9).all()
        assert mask[:, -1 if left else 0].all()
    seconds = np.diff(offsets)
    assert [rows.index(row) for row in rows] == first_duplicate(ids, offsets, seconds).tolist()
