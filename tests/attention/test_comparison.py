"""Two corpora's statistics are told apart only if they differ, however few rows there are."""

import numpy as np
import pytest

from bertbatch import JobError, run
from bertbatch.attention.aggregates import ALL, Group, aggregate, length_groups
from bertbatch.attention.comparison import LEAST_ROWS, adjusted, compare, compare_outputs
from bertbatch.attention.corpus import Corpus
from bertbatch.attention.student import two_sided
from bertbatch.engines.scoring import Statistics
from bertbatch.output.folder import open_output
from tests.helpers.command_line import invoke
from tests.helpers.jobs import make_job
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts

LAYERS, HEADS = 6, 12
NAMES = [f"statistic {i}" for i in range(5)]


def drawn(rng, rows):
    """Rows of one population: lengths, and values [rows, statistics, heads].

    The values rise with length, vary together, and some are skewed, as those of a model are.
    """
    lengths = np.exp(rng.uniform(np.log(17), np.log(256), rows)).astype(int)
    common = rng.normal(size=(rows, len(NAMES), 1))
    own = rng.normal(size=(rows, len(NAMES), LAYERS * HEADS))
    values = np.log(lengths)[:, None, None] + 0.3 * (common + own)
    values[:, ::2] = np.exp(values[:, ::2] - 4)
    return lengths, values


def corpus_of(lengths, values):
    rows = len(lengths)
    counts = np.ones((rows, len(NAMES)), np.int32)
    groups = [Group(ALL, "", np.ones(rows, bool)), *length_groups(lengths)]
    statistics = Statistics(values.astype(np.float32), counts, np.arange(rows))
    corpus = Corpus(LAYERS, HEADS, dict.fromkeys(NAMES, 1e6))
    corpus.add(aggregate(NAMES, [1e6] * len(NAMES), statistics, groups))
    return corpus


@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    [  # Student 1908 in the form of today's tables: the quantiles of 0.975, 0.995, 0.9995
        (12.706, 1, 0.05),
        (63.657, 1, 0.01),
        (2.776, 4, 0.05),
        (8.610, 4, 0.001),
        (2.228, 10, 0.05),
        (3.169, 10, 0.01),
        (1.960, 10**7, 0.05),
        (3.2905, 10**7, 0.001),
        (0.0, 3, 1.0),
        (np.inf, 3, 0.0),
    ],
)
def test_tails_of_t_are_those_of_tables(t, freedom, p):
    found = two_sided(np.array([t, -t]), np.array([freedom, freedom], float))
    np.testing.assert_allclose(found, p, 1e-3, 1e-12)


def test_far_tails_of_t_and_uneven_degrees_of_freedom():
    # One and two degrees of freedom have closed forms; between them p lies between theirs.
    t = np.geomspace(0.01, 1e6, 50)
    one, two = (two_sided(t, np.full(50, nu)) for nu in (1.0, 2.0))
    np.testing.assert_allclose(one, 2 / np.pi * np.arctan2(1, t), 1e-9)
    np.testing.assert_allclose(two, 2 / (t**2 + 2 + t * np.sqrt(t**2 + 2)), 1e-9)
    between = two_sided(t, np.full(50, 1.5))
    assert ((two < between) & (between < one)).all()


@pytest.mark.parametrize("sizes", [(5, 60), (8, 15), (10, 15), (10, 150), (20, 20), (60, 200)])
def test_samples_of_one_population_do_not_differ(sizes):
    false = compared = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        try:
            found = compare(*(corpus_of(*drawn(rng, rows)) for rows in sizes))
        except JobError:  # too few rows in every range of lengths
            continue
        compared += 1
        false += found.sure > 0
    # A rate of 1 % makes one such sample in a hundred; four or more have a chance of 2 %.
    assert false <= 3
    assert compared or sizes == (5, 60)


@pytest.mark.parametrize("sizes", [(20, 60), (60, 200)])
def test_a_head_that_differs_is_found(sizes):
    rng = np.random.default_rng(1)
    samples = [drawn(rng, rows) for rows in sizes]
    samples[0][1][:, 1, 14] += 1.2
    found = compare(*(corpus_of(*sample) for sample in samples))
    first = found.table.to_pylist()[0]
    assert (first["statistic"], first["layer"], first["head"]) == (NAMES[1], 2, 3)
    assert first["difference"] == pytest.approx(1.2, abs=0.5)
    assert first["q"] < 0.01
    assert found.sure == 1


def test_a_difference_is_by_hand_what_it_is():
    """Two ranges of lengths, five and six rows of each corpus in them; the reference is scipy's."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(2)
    lengths = np.array([20] * 5 + [40] * 6)
    values = [rng.normal(size=(11, len(NAMES), LAYERS * HEADS)) * by for by in (1, 3)]
    one = [value[:5] for value in values]
    found = compare(*(corpus_of(np.full(5, 20), value) for value in one)).table.to_pylist()
    for row in found[:5]:
        head = (row["layer"] - 1) * HEADS + row["head"] - 1
        a, b = (value[:, NAMES.index(row["statistic"]), head] for value in one)
        kinds = [stats.ttest_ind(a, b, equal_var=equal) for equal in (False, True)]
        less = max(kinds, key=lambda kind: kind.pvalue)
        assert row["p"] == pytest.approx(less.pvalue, 1e-4)
        assert row["t"] == pytest.approx(less.statistic, 1e-4)
        assert row["df"] == pytest.approx(less.df, 1e-4)
    first = compare(*(corpus_of(lengths, value) for value in values)).table.to_pylist()[0]
    place = NAMES.index(first["statistic"]), (first["layer"] - 1) * HEADS + first["head"] - 1
    x, y = (value[:, place[0], place[1]] for value in values)
    within = [x[:5].mean() - y[:5].mean(), x[5:].mean() - y[5:].mean()]
    assert first["difference"] == pytest.approx((2.5 * within[0] + 3 * within[1]) / 5.5, 1e-4)


def test_ranges_of_few_rows_are_left_out_and_told():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(40, len(NAMES), LAYERS * HEADS))
    a = np.array([20] * 30 + [200] * 10)
    b = np.array([20] * 36 + [200] * 4)
    found = compare(corpus_of(a, values), corpus_of(b, values))
    assert (found.rows, found.compared) == ((40, 40), (30, 36))
    with pytest.raises(JobError, match=f"at least {LEAST_ROWS} rows in each"):
        compare(corpus_of(a[:4], values[:4]), corpus_of(b, values))


def test_adjusted_p_values_are_those_by_hand():
    np.testing.assert_allclose(
        adjusted(np.array([0.01, 0.04, 0.03, 0.005])), [0.02, 0.04, 0.04, 0.02]
    )


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, tiny_model):
    """Outputs of one source (with a link to it), in another precision, and of another source."""
    folder = tmp_path_factory.mktemp("outputs")
    for name, seed in (("a", 1), ("b", 2)):
        write_parquet(folder / f"{name}.parquet", make_texts(60, seed), 0)
    for name, source, keys in (
        ("a", "a", {"model.dtype": "float32"}),
        ("again", "a", {"model.dtype": "bfloat16", "input.where": "id >= 10"}),
        ("b", "b", {"model.dtype": "float32"}),
    ):
        keys |= {"attention.statistics": ["entropy"], "attention.per_row": False}
        job = make_job(tiny_model, folder / f"{source}.parquet", folder / name, **keys)
        assert run(job).exit_code == 0
    (folder / "link").symlink_to(folder / "a")
    return folder


def test_an_output_is_not_compared_with_itself(outputs):
    for name in ("a", "link"):
        code, said = invoke("attention", str(outputs / "a"), "--against", str(outputs / name))
        assert code == 2
        assert "are the same output" in said


def test_what_two_outputs_have_in_common_is_told(outputs):
    def said(name):
        code, text = invoke("attention", str(outputs / "a"), "--against", str(outputs / name))
        assert code == 0, text
        return " ".join(text.split())

    assert "note: both have rows of a.parquet: the test takes all rows as independent" in (
        said("again")
    )
    assert "note: their dtypes differ: float32 and bfloat16" in said("again")
    assert "note" not in said("b")
    assert f"compared: 60 of 60 rows of {outputs}/a, 50 of 50 of {outputs}/again" in said("again")


def test_the_order_of_outputs_turns_the_sign(outputs):
    two = [open_output(str(outputs / name)) for name in "ab"]
    there, back = compare_outputs(*two, False), compare_outputs(*two[::-1], False)
    np.testing.assert_allclose(there.table["t"].to_numpy(), -back.table["t"].to_numpy())
    np.testing.assert_allclose(there.table["p"].to_numpy(), back.table["p"].to_numpy())
