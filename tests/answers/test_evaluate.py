"""What `evaluate` says of an output is what the definitions say of its rows."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bertbatch.checks import evaluate as module
from bertbatch.checks.evaluate import evaluate
from bertbatch.checks.metrics import BINS, Z95, Calibration, Pairs, kappa, mcnemar, spearman, wilson
from bertbatch.errors import JobError
from bertbatch.output.folder import open_output
from tests.helpers.command_line import invoke
from tests.helpers.written_outputs import label_sets, numbers, single_labels, write_output

LABELS = ["bad", "so so", "good"]


@given(st.integers(0, 500), st.integers(1, 500))
def test_the_interval_holds_the_shares_that_are_not_rejected(right, rows):
    """Wilson's interval: all p with |p̂ − p| ≤ z √(p (1 − p) / n)."""
    right = min(right, rows)
    low, high = wilson(right, rows)
    share = right / rows
    assert 0 <= low <= share <= high <= 1
    for p in np.linspace(0, 1, 101):
        distance = abs(share - p) - Z95 * np.sqrt(p * (1 - p) / rows)
        if abs(distance) > 1e-9:
            assert (low <= p <= high) == (distance < 0), p


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_exact_test_sums_the_binomial_distribution(a, b):
    """Two-sided: the probability of what is at most as probable as the counts."""
    from math import comb

    n = a + b
    probabilities = [comb(n, k) / 2**n for k in range(n + 1)]
    expected = sum(p for p in probabilities if p <= probabilities[a] * (1 + 1e-9))
    assert mcnemar(a, b) == pytest.approx(min(expected, 1), rel=1e-9)


def test_the_exact_test_of_many_rows_takes_no_time():
    assert mcnemar(50_000_000, 50_000_000 - 19_600) == pytest.approx(0.05, rel=0.01)
    assert mcnemar(1_000_000, 0) == 0


@given(st.integers(2, 6).flatmap(lambda n: st.lists(
    st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), min_size=1, max_size=60)
))  # fmt: skip
def test_kappa_is_agreement_beyond_chance(pairs):
    size = max(max(pair) for pair in pairs) + 1
    counts = np.zeros((size, size), np.int64)
    for a, b in pairs:
        counts[a, b] += 1
    n = len(pairs)
    observed = sum(a == b for a, b in pairs) / n
    chance = sum(
        sum(a == k for a, _ in pairs) * sum(b == k for _, b in pairs) for k in range(size)
    ) / (n * n)
    found = kappa(counts)
    if chance == 1:
        assert found is None
    else:
        assert found == pytest.approx((observed - chance) / (1 - chance), abs=1e-12)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=40))
def test_correlations_in_pieces_are_those_of_the_whole(pairs):
    x, y = np.array(pairs, float).T
    found = Pairs()
    for at in range(0, len(x), 7):
        found.add(x[at : at + 7] + 1e6, y[at : at + 7] + 1e6)
    assert found.mean_absolute == pytest.approx(np.abs(x - y).mean())
    assert found.root_mean_square == pytest.approx(np.sqrt(((x - y) ** 2).mean()))
    if x.std() == 0 or y.std() == 0:
        assert found.pearson is None
        return
    assert found.pearson == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)
    # A rank is one more than the number of smaller values, and half of the other equal ones.
    by_definition = [
        np.array([(v < w).sum() + ((v == w).sum() + 1) / 2 for w in v]) for v in (x, y)
    ]
    assert spearman(x, y) == pytest.approx(np.corrcoef(*by_definition)[0, 1], abs=1e-9)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=80))
def test_calibration_error_by_its_definition(pairs):
    scores, right = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    found = Calibration()
    found.add(scores, right)
    error = 0.0
    for m in range(1, BINS + 1):
        inside = (scores * BINS > m - 1) & (scores * BINS <= m) | ((m == 1) & (scores == 0))
        if inside.any():
            gap = abs(right[inside].mean() - scores[inside].mean())
            error += inside.mean() * gap
    assert found.error == pytest.approx(error, abs=1e-9)


def make_scores(rows, count=3, seed=0):
    raw = np.random.default_rng(seed).exponential(size=(rows, count)) ** 2
    return raw / raw.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Answers, and gold that has a null now and then, over units and sources of odd sizes."""
    path = tmp_path_factory.mktemp("judged") / "out"
    rng = np.random.default_rng(1)
    scores = make_scores(1000)
    gold = [None if rng.random() < 0.1 else LABELS[rng.integers(3)] for _ in scores]
    ids = pa.array([None if g is None else float(LABELS.index(g)) for g in gold])
    answers = single_labels(LABELS, scores, gold=gold, ids=ids, other=["x"] * 1000)
    write_output(path, answers, LABELS, sources=(10, 7, 500, 20, 463), bad={3: "no", 600: "no"})
    return path, scores, gold


def test_figures_are_those_of_sklearn(judged):
    metrics = pytest.importorskip("sklearn.metrics")
    path, scores, gold = judged
    kept = [i for i, g in enumerate(gold) if g is not None and i not in (3, 600)]
    true, given = [gold[i] for i in kept], [LABELS[scores[i].argmax()] for i in kept]
    found = evaluate(open_output(str(path)), "gold")
    assert found.rows == len(kept)
    assert found.without_gold == 998 - len(kept)
    assert found.accuracy == metrics.accuracy_score(true, given)
    table = metrics.confusion_matrix(true, given, labels=LABELS)
    np.testing.assert_array_equal(found.confusion[:, :-1], table)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        true, given, labels=LABELS
    )
    for i, each in enumerate(found.found):
        assert (each.precision, each.recall, each.f1, each.support) == pytest.approx(
            (precision[i], recall[i], f1[i], support[i])
        )
    assert found.macro_f1 == pytest.approx(metrics.f1_score(true, given, average="macro"))


def test_whole_numbers_are_places_of_labels(judged):
    path, *_ = judged
    by_name, by_id = (evaluate(open_output(str(path)), name) for name in ("gold", "ids"))
    assert (by_name.matched_by, by_id.matched_by) == ("label", "id")
    np.testing.assert_array_equal(by_name.confusion, by_id.confusion)
    code, said = invoke("evaluate", str(path), "--gold", "ids")
    assert code == 0
    assert "places in the model's order" in " ".join(said.split())


def test_numbers_that_are_no_place_are_refused(tmp_path):
    answers = single_labels(LABELS, make_scores(50), gold=[i % 4 for i in range(50)])
    write_output(tmp_path / "out", answers, LABELS)
    code, said = invoke("evaluate", str(tmp_path / "out"), "--gold", "gold")
    assert code == 2
    assert "'0', '1', '2', '3'" in said


def test_numbers_are_names_where_labels_are_numbers(tmp_path):
    """As for models that give stars: 0 to 2 would be other labels than by their places."""
    labels = ["2", "0", "1"]
    answers = single_labels(labels, np.eye(3)[[0, 1, 2]], gold=[2, 0, 1])
    write_output(tmp_path / "out", answers, labels)
    found = evaluate(open_output(str(tmp_path / "out")), "gold")
    assert (found.matched_by, found.accuracy) == ("label", 1.0)


def test_numbers_that_are_not_quite_names_are_refused(tmp_path):
    """Stars from 1 to 3 with gold from 0 to 2: as places they would all be off by one."""
    answers = single_labels(["1", "2", "3"], np.eye(3), gold=[0, 1, 2])
    write_output(tmp_path / "out", answers, ["1", "2", "3"])
    with pytest.raises(JobError, match="'0': no label"):
        evaluate(open_output(str(tmp_path / "out")), "gold")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--gold", "nothing"], 2, "no column 'nothing'"),
        (["--gold", "other"], 2, "'x'"),
        (["--gold", "scores"], 2, "has no labels"),
        (["--gold", "gold", "--min-accuracy", "0.99"], 4, "below 0.99"),
        (["--gold", "gold", "--min-accuracy", "0.01"], 0, "accuracy"),
        (["--gold", "gold", "--model", "m"], 2, "one model"),
    ],
)
def test_exit_codes(judged, words, code, said):
    found, text = invoke("evaluate", str(judged[0]), *words)
    assert found == code, text
    assert said in text


def test_json_is_one_object(judged):
    code, text = invoke("evaluate", str(judged[0]), "--gold", "gold", "--json")
    record = json.loads(text)
    assert code == 0
    assert np.sum(record["confusion"]) == record["rows"]
    assert record["accuracy_interval"][0] < record["accuracy"] < record["accuracy_interval"][1]


def test_rows_below_the_least_score_count_as_wrong(tmp_path):
    answers = single_labels(LABELS, np.eye(3)[[0, 1, 2, 0]], gold=["bad", "so so", "good", "bad"])
    label = pa.array(["bad", None, "good", "so so"]).cast(answers["label"].type)
    answers = answers.set_column(answers.column_names.index("label"), "label", label)
    write_output(tmp_path / "out", answers, LABELS)
    found = evaluate(open_output(str(tmp_path / "out")), "gold")
    assert (found.accuracy, found.unlabelled) == (0.5, 1)
    assert found.confusion[:, -1].tolist() == [0, 1, 0]


def test_an_output_that_is_not_complete_says_so(tmp_path):
    answers = single_labels(LABELS, make_scores(50), gold=["bad"] * 50)
    write_output(tmp_path / "out", answers, LABELS, unit_rows=10, skip=(2,))
    found = evaluate(open_output(str(tmp_path / "out")), "gold")
    assert (found.rows, found.lack) == (40, "is not complete")
    assert "not complete" in invoke("evaluate", str(tmp_path / "out"), "--gold", "gold")[1]


def test_gold_without_values_is_an_error(tmp_path):
    answers = single_labels(LABELS, make_scores(50), gold=pa.nulls(50, pa.string()))
    write_output(tmp_path / "out", answers, LABELS)
    with pytest.raises(JobError, match="no committed row"):
        evaluate(open_output(str(tmp_path / "out")), "gold")


@pytest.mark.parametrize("as_text", [False, True])
def test_sets_of_labels_are_judged_label_by_label(tmp_path, as_text):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(2)
    scores, true = rng.random((300, 3)), rng.random((300, 3)) > 0.6
    sets = [[LABELS[i] for i in np.flatnonzero(row)] for row in true]
    gold = [", ".join(s) for s in sets] if as_text else pa.array(sets, pa.list_(pa.string()))
    write_output(
        tmp_path / "out",
        label_sets(LABELS, scores, gold=gold),
        LABELS,
        "multi_label_classification",
    )
    found = evaluate(open_output(str(tmp_path / "out")), "gold")
    given = scores.astype(np.float32) > 0.5
    assert found.rows == 300
    assert found.accuracy == metrics.accuracy_score(true, given)
    assert found.micro.f1 == pytest.approx(metrics.f1_score(true, given, average="micro"))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(true, given, average="macro"))
    each = metrics.precision_recall_fscore_support(true, given)
    for i, one in enumerate(found.found):
        got = (one.precision, one.recall, one.f1, one.support)
        assert got == pytest.approx([part[i] for part in each])


@pytest.mark.parametrize("ranked", [1_000_000, 500])
def test_numbers_are_judged_by_their_errors(tmp_path, monkeypatch, ranked):
    monkeypatch.setattr(module, "RANKED", ranked)
    rng = np.random.default_rng(3)
    true = rng.normal(size=2000)
    given = (true + rng.normal(size=2000)).astype(np.float32)
    gold = pa.array(np.where(np.arange(2000) % 9, true, np.nan))
    write_output(tmp_path / "out", numbers(given, gold=gold), ["x"], "regression")
    found = evaluate(open_output(str(tmp_path / "out")), "gold")
    kept = np.arange(2000) % 9 > 0
    x, y = given[kept].astype(float), true[kept]
    assert found.rows == kept.sum()
    assert found.pairs.mean_absolute == pytest.approx(np.abs(x - y).mean())
    assert found.pairs.pearson == pytest.approx(np.corrcoef(x, y)[0, 1])
    if ranked > 2000:
        assert found.spearman == pytest.approx(spearman(x, y))
        assert found.ranked == found.rows
    else:
        assert 350 < found.ranked < 550
        assert found.spearman == pytest.approx(spearman(x, y), abs=0.1)
    assert invoke("evaluate", str(tmp_path / "out"), "--gold", "gold")[0] == 0
    assert (
        "no accuracy"
        in invoke("evaluate", str(tmp_path / "out"), "--gold", "gold", "--min-accuracy", "0.5")[1]
    )


@pytest.mark.parametrize("kind", ["embedding", "token_classification"])
def test_tasks_without_right_answers_are_refused(tmp_path, kind):
    write_output(tmp_path / "out", numbers(np.zeros(3), gold=[1, 2, 3]), ["x"], kind)
    code, said = invoke("evaluate", str(tmp_path / "out"), "--gold", "gold")
    assert code == 2
    assert "error: " in said


@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(5, 50))
def test_units_do_not_matter(tmp_path_factory, sources, unit_rows):
    rows = sum(sources)
    scores = make_scores(rows)
    gold = [LABELS[i % 3] for i in range(rows)]
    path = tmp_path_factory.mktemp("units") / "out"
    write_output(
        path, single_labels(LABELS, scores, gold=gold), LABELS,
        unit_rows=unit_rows, sources=tuple(sources),
    )  # fmt: skip
    found = evaluate(open_output(str(path)), "gold")
    right = sum(LABELS[row.argmax()] == g for row, g in zip(scores, gold, strict=True))
    assert (found.rows, found.right) == (rows, right)
