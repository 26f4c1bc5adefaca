"""What `compare` says of two outputs is what the definitions say of their rows."""

import json

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bertbatch.checks import compare as module
from bertbatch.checks.compare import compare
from bertbatch.checks.metrics import kappa, mcnemar
from bertbatch.output.folder import open_output
from tests.helpers.command_line import invoke
from tests.helpers.written_outputs import label_sets, numbers, single_labels, write_output

LABELS = ["bad", "so so", "good"]


def scores_of(rows, seed):
    raw = np.random.default_rng(seed).exponential(size=(rows, 3)) ** 2
    return (raw / raw.sum(1, keepdims=True)).astype(np.float32)


def outputs(tmp_path, a, b):
    return [open_output(str(tmp_path / name)) for name in (a, b)]


@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    st.lists(st.integers(1, 80), min_size=1, max_size=6),
    st.integers(5, 60),
    st.integers(5, 60),
    st.integers(3, 100),
    st.sets(st.integers(0, 200), max_size=20),
)
def test_units_and_windows_do_not_matter(tmp_path_factory, sources, units_a, units_b, size, bad):
    tmp_path = tmp_path_factory.mktemp("compare")
    rows = sum(sources)
    mine, theirs = scores_of(rows, 1), scores_of(rows, 2)
    theirs[::2] = mine[::2]
    gold = [None if i % 7 == 3 and i < rows - 1 else LABELS[i % 3] for i in range(rows)]
    in_quarantine = {i: "no" for i in bad if i < rows - 1}
    write_output(
        tmp_path / "a", single_labels(LABELS, mine, gold=gold), LABELS,
        unit_rows=units_a, sources=tuple(sources), bad=in_quarantine,
    )  # fmt: skip
    write_output(
        tmp_path / "b", single_labels(LABELS, theirs), LABELS,
        unit_rows=units_b, sources=tuple(sources), bad={0: "no"} if rows > 1 else {},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS", size)
        found = compare(*outputs(tmp_path, "a", "b"), gold="gold", limit=1000)
    there_a = np.array([i not in in_quarantine for i in range(rows)])
    there_b = np.array([i != 0 or rows == 1 for i in range(rows)])
    both = there_a & there_b
    x, y = mine.argmax(1), theirs.argmax(1)
    assert (found.rows, found.only_a, found.only_b) == (
        both.sum(), (there_a & ~there_b).sum(), (there_b & ~there_a).sum()
    )  # fmt: skip
    assert found.same == (x == y)[both].sum()
    table = np.zeros((4, 4), np.int64)
    np.add.at(table, (x[both], y[both]), 1)
    np.testing.assert_array_equal(found.confusion, table)
    assert found.kappa == kappa(table)
    off = np.abs(mine.astype(float) - theirs)[both]
    assert found.scores.mean_absolute == pytest.approx(off.mean())
    assert found.scores.largest == pytest.approx(off.max())
    flips = {i for i in range(rows) if both[i] and x[i] != y[i]}
    starts = np.cumsum([0, *sources])
    at = [starts[int(flip.source[2:5])] + flip.row for flip in found.flips]
    assert set(at) == flips
    assert len(at) == len(flips)
    certain = [min(mine[i].max(), theirs[i].max()) for i in at]
    assert certain == sorted(certain, reverse=True)
    judged = np.array([g is not None for g in gold]) & both
    true = np.arange(rows) % 3
    correct = found.correctness
    assert correct.only_a == (judged & (x == true) & (y != true)).sum()
    assert correct.only_b == (judged & (x != true) & (y == true)).sum()
    assert correct.rows == judged.sum()
    assert correct.p == mcnemar(correct.only_a, correct.only_b)


def test_labels_in_another_order_are_the_same_labels(tmp_path):
    scores = scores_of(100, 1)
    order = [2, 0, 1]
    gold = list(range(3)) * 33 + [0]
    write_output(tmp_path / "a", single_labels(LABELS, scores, gold=gold), LABELS)
    other = [LABELS[i] for i in order]
    write_output(tmp_path / "b", single_labels(other, scores[:, order], gold=gold), other)
    found = compare(*outputs(tmp_path, "a", "b"), gold="gold")
    assert (found.agreement, found.kappa) == (1.0, 1.0)
    assert found.scores_of == "scores of the given labels"
    assert (found.correctness.only_a, found.correctness.only_b) == (0, 0)
    back = compare(*outputs(tmp_path, "b", "a"), gold="gold")  # ids are of b's order then
    right = (np.array(order)[np.array(gold)] == scores.argmax(1)).sum()
    assert back.correctness.both == right
    write_output(tmp_path / "c", single_labels(LABELS, scores), LABELS)
    assert compare(*outputs(tmp_path, "c", "b"), gold="gold").correctness.both == right


def test_sets_of_labels(tmp_path):
    rng = np.random.default_rng(0)
    mine, theirs = rng.random((200, 3)), rng.random((200, 3))
    theirs[:100] = mine[:100]
    for name, scores in (("a", mine), ("b", theirs)):
        table = label_sets(LABELS, scores, gold=["bad,good"] * 200)
        write_output(tmp_path / name, table, LABELS, "multi_label_classification")
    found = compare(*outputs(tmp_path, "a", "b"), gold="gold", limit=500)
    x, y = (scores.astype(np.float32) > 0.5 for scores in (mine, theirs))
    assert found.same == (x == y).all(1).sum()
    assert len(found.flips) == 200 - found.same
    for i, label in enumerate(LABELS):
        table = [[(~x & ~y)[:, i].sum(), (~x & y)[:, i].sum()],
                 [(x & ~y)[:, i].sum(), (x & y)[:, i].sum()]]  # fmt: skip
        np.testing.assert_array_equal(found.by_label[i], table)
        assert found.kappas[label] == kappa(np.array(table))
    right = [(z == [True, False, True]).all(1) for z in (x, y)]
    assert found.correctness.right == (right[0].sum(), right[1].sum())
    assert "kappa" in invoke("compare", str(tmp_path / "a"), str(tmp_path / "b"))[1]


def test_numbers_are_compared_by_their_difference(tmp_path):
    x = np.arange(50, dtype=np.float32)
    write_output(tmp_path / "a", numbers(x), ["x"], "regression")
    write_output(tmp_path / "b", numbers(x + (x > 40)), ["x"], "regression")
    found = compare(*outputs(tmp_path, "a", "b"))
    assert (found.same, found.scores.largest) == (41, 1.0)
    assert found.scores.mean_absolute == pytest.approx(9 / 50)


@pytest.fixture
def two(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        write_output(tmp_path / name, single_labels(LABELS, scores_of(90, seed)), LABELS)
    write_output(tmp_path / "n", numbers(np.zeros(90)), ["x"], "regression")
    far = single_labels(LABELS, scores_of(90, 3))
    write_output(tmp_path / "far", far, LABELS, sources=(1,) * 90, skip=(0,), unit_rows=30)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["a", "b"], 0, "same answer"),
        (["a", "b", "--limit", "2"], 0, "more rows; --limit shows more"),
        (["a", "n"], 2, "compare outputs of one task"),
        (["a", "b", "--gold", "gold"], 2, "no column 'gold'"),
        (["a", "b", "--model", "x"], 0, "same answer"),
        (["a", "nowhere"], 2, "is not an output"),
        (["far", "a"], 2, "no row in common"),
        (["n", "n", "--gold", "value"], 2, "only labels are right or wrong"),
    ],
)
def test_exit_codes(two, words, code, said):
    paths = [str(two / word) if word in ("a", "b", "n", "far", "nowhere") else word
             for word in words]  # fmt: skip
    found, text = invoke("compare", *paths)
    assert found == code, text
    assert said in text


def test_json_is_one_object(two):
    code, text = invoke("compare", str(two / "a"), str(two / "b"), "--json", "--limit", "3")
    record = json.loads(text)
    assert code == 0
    assert len(record["flips"]) == 3
    assert record["rows"] == 90
