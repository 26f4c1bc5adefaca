"""Attention statistics through the job: each row's columns, and a corpus's cells that merge."""

import itertools
import json
import os
import random
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from bertbatch import JobError, attention_array, load_attention, run
from bertbatch.attention.columns import of_pieces
from bertbatch.attention.comparison import adjusted, compare_outputs
from bertbatch.attention.corpus import (
    ALL,
    BINS,
    LABEL,
    Corpus,
    Group,
    aggregate,
    length_groups,
    read_corpus,
    sampled,
    value_groups,
)
from bertbatch.cli import app
from bertbatch.output import open_output
from bertbatch.scoring import Scored, Statistics
from bertbatch.statistics import DEFAULT, STATISTICS
from tests.conftest import make_job, write_parquet
from tests.test_engines import save
from tests.test_faults import finish, start, wait_for_parts
from tests.tiny import make_model, make_texts

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
def test_any_split_and_order_gives_the_same_cells(seed):
    rng = random.Random(seed)
    statistics = some(150, 400, seed)
    n_tokens = np.random.default_rng(seed).integers(1, 200, 400)
    labels = np.array([rng.choice("ab") for _ in range(400)])
    whole = merged([aggregate(NAMES, TOPS, statistics, groups(n_tokens, labels))])
    edges = [0, *sorted(rng.sample(range(1, 400), rng.randint(1, 30))), 400]
    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    rng.shuffle(parts)
    tables = [
        aggregate(NAMES, TOPS, cut(statistics, p), groups(n_tokens[p], labels[p])) for p in parts
    ]
    split = merged(tables)
    assert split.keys.keys() == whole.keys.keys()
    for key in whole.keys:
        ours, theirs = split.cell(key), whole.cell(key)
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], 1e-9, 1e-9, err_msg=name)
    for name in NAMES:
        assert (split.histograms[name] == whole.histograms[name]).all()


def test_cells_are_what_numpy_says_of_the_rows():
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
            cell = corpus.cell((kind, value, name))
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


def test_groups_by_a_columns_values():
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


def test_samples_are_stable_and_of_their_share():
    ids, source, row = ["a", "b"], np.repeat([0, 1], 50_000), np.tile(np.arange(50_000), 2)
    small, large = (sampled(ids, source, row, share) for share in (0.01, 0.1))
    assert 0.009 < small.mean() < 0.011
    assert (large | ~small).all()  # a larger sample has the smaller one
    again = sampled(["b"], np.zeros(50_000, int), np.arange(50_000), 0.01)
    assert (again == small[50_000:]).all()  # whatever else is in the unit
    assert sampled(ids, source, row, 1.0).all()


def watched_job(model: str, source: Any, out: Path, runner: str = "inline", **keys: Any) -> Any:
    data = make_job(model, source, out, runner, **keys).model_dump()
    return type(make_job(model, source, out)).build({**data, "attention": data["attention"] or {}})


def test_rows_and_corpus_tell_the_same(runner, corpus, tmp_path, tiny_model):
    keys = {"input.carry": ["id"], "runtime.unit_rows": 40}
    plain = run(make_job(tiny_model, corpus, tmp_path / "plain", runner, **keys)).to_pandas()
    job = watched_job(tiny_model, corpus, tmp_path / "out", runner, **keys)
    result = run(job)
    assert result.exit_code == 0
    table = pq.read_table(tmp_path / "out")
    frame = result.to_pandas()
    assert frame["label"].tolist() == plain["label"].tolist()
    np.testing.assert_allclose(np.stack(frame["scores"]), np.stack(plain["scores"]), atol=1e-5)
    statistics = load_attention(str(tmp_path / "out"))
    assert statistics.index.names == ["layer", "head", "statistic"]
    assert len(statistics) == len(DEFAULT) * 2 * 4
    counts = pd.json_normalize(table.column("attn_queries").to_pylist())
    for name in DEFAULT:
        rows = attention_array(table, name)
        assert rows.shape == (600, 2, 4)
        assert np.isfinite(rows).all()
        of = statistics.xs(name, level="statistic")
        assert (of["rows"] == 600).all()
        np.testing.assert_allclose(of["mean"], rows.mean(0, np.float64).ravel(), 1e-6)
        np.testing.assert_allclose(of["std"], rows.std(0, np.float64).ravel(), 1e-5, 1e-7)
        weighted = np.average(rows.astype(float), axis=0, weights=counts[name])
        np.testing.assert_allclose(of["token_mean"], weighted.ravel(), 1e-6)
    assert (counts["entropy"] == table.column("n_tokens").to_numpy()).all()
    assert (counts["to_next"] == counts["entropy"] - 1).all()
    labels = [load_attention(str(tmp_path / "out"), "label", v) for v in ("negative", "positive")]
    assert sum(frame["rows"].iloc[0] for frame in labels) == 600


def test_others_read_the_columns(corpus, tmp_path, tiny_model):
    run(watched_job(tiny_model, corpus, tmp_path / "out"))
    field = pq.read_table(tmp_path / "out").schema.field("attn_entropy")
    assert field.type == pa.list_(pa.float32(), 8)
    assert {k: field.metadata[k] for k in (b"layers", b"heads", b"order", b"queries")} == {
        b"layers": b"2", b"heads": b"4", b"order": b"layer-major", b"queries": b"all",
    }  # fmt: skip
    frame = pd.read_parquet(tmp_path / "out")
    assert np.stack(frame["attn_entropy"]).shape == (600, 8)
    (row,) = duckdb.sql(
        f"select count(*), avg(attn_entropy[8]), max(attn_queries.to_next) "
        f"from '{tmp_path}/out/*.parquet'"
    ).fetchall()
    assert row[0] == 600
    assert row[1] == pytest.approx(np.stack(frame["attn_entropy"])[:, 7].mean(), 1e-6)
    assert row[2] == frame["n_tokens"].max() - 1


def test_only_the_corpus_and_only_a_sample(corpus, tmp_path, tiny_model):
    whole = watched_job(tiny_model, corpus, tmp_path / "whole", **{"input.carry": ["id"]})
    run(whole)
    keys: dict[str, Any] = {"attention.sample": 0.3, "input.carry": ["id"]}
    run(watched_job(tiny_model, corpus, tmp_path / "some", **keys))
    everything, some = (pq.read_table(tmp_path / n).sort_by("id") for n in ("whole", "some"))
    assert some.column("label").to_pylist() == everything.column("label").to_pylist()
    chosen = np.asarray(some.column("attn_entropy").is_valid())
    assert 0.2 < chosen.mean() < 0.4
    assert (np.asarray(some.column("attn_queries").is_valid()) == chosen).all()
    ours, theirs = (attention_array(t, "entropy") for t in (some, everything))
    np.testing.assert_allclose(ours[chosen], theirs[chosen], 1e-4, 1e-6)
    of = load_attention(str(tmp_path / "some")).xs("entropy", level="statistic")
    assert (of["rows"] == chosen.sum()).all()
    keys |= {"attention.per_row": False, "attention.group_by": "id"}
    run(watched_job(tiny_model, corpus, tmp_path / "alone", **keys))
    assert not [n for n in pq.read_table(tmp_path / "alone").column_names if "attn" in n]
    assert load_attention(str(tmp_path / "alone")).xs("entropy", level="statistic").equals(of)
    row = int(np.flatnonzero(chosen)[0])
    one = load_attention(str(tmp_path / "alone"), "column", str(row))
    assert (one["rows"] == 1).all()
    alone = one.xs("entropy", level="statistic")["mean"].to_numpy()
    np.testing.assert_allclose(alone, ours[row].ravel(), 1e-6)


def test_what_is_not_defined_is_null(tmp_path, tiny_model):
    texts = ["", "a", "many words " * 40, ",.!", None]
    write_parquet(tmp_path / "in.parquet", texts)
    keys = {"attention.queries": "content", "attention.statistics": list(STATISTICS)}
    result = run(watched_job(tiny_model, tmp_path / "in.parquet", tmp_path / "out", **keys))
    assert result.totals["rows_quarantined"] == 1
    table = pq.read_table(tmp_path / "out").sort_by("row")
    for name in STATISTICS:
        values = attention_array(table, name)
        nothing = [True] * 4 if name == "to_other_segment" else [True, False, False, False]
        assert np.isnan(values).all((1, 2)).tolist() == nothing, name
        column = table.column(f"attn_{name}")
        assert np.asarray(column.is_valid()).tolist() == [not n for n in nothing], name
        assert np.isfinite(column.combine_chunks().flatten().to_numpy()).all()
    assert table.column("attn_queries").to_pylist()[0]["entropy"] == 0
    assert set(load_attention(str(tmp_path / "out"))["rows"]) == {3}


def test_killed_workers_and_driver_lose_and_double_nothing(corpus, tmp_path, tiny_model):
    run(watched_job(tiny_model, corpus, tmp_path / "expected"))
    out = tmp_path / "out"
    options = ("--attention", "--unit-rows", "20")
    process = start(tiny_model, corpus, out, *options, FAULT_SLEEP="0.3")
    wait_for_parts(out, 3, process)
    children = psutil.Process(process.pid).children(recursive=True)
    next(c for c in children if any("_Scorer" in word for word in c.cmdline())).kill()
    wait_for_parts(out, 8, process)
    process.kill()
    process.wait()
    assert len(list(out.glob("*.parquet"))) < 31
    code, text = finish(start(tiny_model, corpus, out, *options))
    assert code == 0, text
    ours, theirs = (load_attention(str(path)) for path in (out, tmp_path / "expected"))
    for column in ("rows", "tokens"):
        assert ours[column].equals(theirs[column])
    np.testing.assert_allclose(ours["mean"], theirs["mean"], 1e-4, 1e-6)
    assert (np.stack(ours["histogram"]).sum(1) == ours["rows"]).all()


def test_an_orphaned_file_is_nobodys(corpus, tmp_path, tiny_model):
    out = tmp_path / "out"
    run(watched_job(tiny_model, corpus, out))
    before = load_attention(str(out))
    (file, *_) = (out / "_bertbatch" / "attention").iterdir()
    unit = file.name.partition("-")[0]
    (file.parent / f"{unit}-{'0' * 32}.arrow").write_bytes(file.read_bytes())
    assert load_attention(str(out)).equals(before)
    file.unlink()
    with pytest.raises(JobError, match=rf"{unit}.*which part-.* names"):
        load_attention(str(out))


def test_an_output_keeps_to_its_settings(corpus, tmp_path, tiny_model):
    out = tmp_path / "out"
    run(watched_job(tiny_model, corpus, out))
    for key, value in (("queries", "content"), ("sample", 0.5), ("statistics", ["entropy"])):
        with pytest.raises(JobError, match=f"attention.{key}"):
            run(watched_job(tiny_model, corpus, out, **{f"attention.{key}": value}))
    with pytest.raises(JobError, match="attention"):
        run(make_job(tiny_model, corpus, out))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"attention.statistics": ["entropi"]}, "'entropi'; did you mean 'entropy'"),
        ({"attention.statistics": []}, "at least one"),
        ({"attention.group_by": "id"}, "'id' is not carried"),
        ({"attention.sample": 0}, "greater than 0"),
        ({"attention.samples": 1}, "did you mean 'attention.sample'"),
        ({"model.engine": "openvino", "attention.sample": 1}, "openvino gives no statistics"),
    ],
)
def test_wrong_settings_are_told(keys, message, tmp_path):
    with pytest.raises(JobError, match=message):
        make_job("x", "in", tmp_path / "out", **keys)


def test_a_model_that_cannot_is_refused_before_anything_is_written(runner, corpus, tmp_path):
    save(tmp_path / "deberta", "deberta-v2")
    keys: dict[str, Any] = {"attention.sample": 1.0, "model.max_length": 60}
    job = make_job(str(tmp_path / "deberta"), corpus, tmp_path / "out", runner, **keys)
    with pytest.raises(JobError, match=r"deberta \(DebertaV2.*cannot give statistics.*DistilBERT"):
        run(job)
    assert not (tmp_path / "out").exists()


def test_rows_without_finite_logits_are_in_no_cell(tmp_path):
    # The weight of one word is infinite, so that only its row's logits are no numbers.
    model = make_model(tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"][5 + 25] = float("inf")  # z
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    write_parquet(tmp_path / "in.parquet", ["a b", "c", "a z", "d e f"])
    keys: dict[str, Any] = {"attention.sample": 1.0, "limits.max_quarantined": 1.0}
    result = run(make_job(model, tmp_path / "in.parquet", tmp_path / "out", **keys))
    assert (result.totals["rows_scored"], result.totals["rows_quarantined"]) == (3, 1)
    statistics = load_attention(str(tmp_path / "out"))
    assert (statistics["rows"] == 3).all()
    assert np.isfinite(statistics[["mean", "std", "min", "max"]]).all(axis=None)


def scaled_head(model: str, folder: Path, layer: int, head: int) -> str:
    """The same model, one head's query weights 1.5 times as large."""
    os.system(f"cp -r {model} {folder}")
    weights = load_file(folder / "model.safetensors")
    rows = slice(head * 8, head * 8 + 8)
    for part in ("weight", "bias"):
        name = f"bert.encoder.layer.{layer}.attention.self.query.{part}"
        weights[name] = weights[name].clone()
        weights[name][rows] *= 1.5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def test_halves_of_a_corpus_agree_and_a_changed_head_comes_first(tmp_path):
    # Weights as large as a trained model's, so that heads differ, but none is one-hot.
    model = make_model(tmp_path / "model", initializer_range=0.2)
    texts = make_texts(1200, seed=5)
    for name, half in (("a", texts[::2]), ("b", texts[1::2])):
        write_parquet(tmp_path / f"{name}.parquet", half)
        run(watched_job(model, tmp_path / f"{name}.parquet", tmp_path / name))
    halves = compare_outputs(*(open_output(str(tmp_path / n)) for n in "ab"), across_models=False)
    assert halves.num_rows == len(DEFAULT) * 8
    assert min(halves["q"].to_pylist()) > 0.01
    other = scaled_head(model, tmp_path / "other", 1, 2)
    run(watched_job(other, tmp_path / "a.parquet", tmp_path / "c"))
    two = [open_output(str(tmp_path / n)) for n in "ca"]
    with pytest.raises(JobError, match=r"model\.weights(.|\n)*--across-models"):
        compare_outputs(*two, across_models=False)
    first = compare_outputs(*two, across_models=True).to_pylist()[0]
    assert (first["layer"], first["head"]) == (2, 3)
    assert first["q"] < 1e-6


def test_statistics_in_another_order_are_the_same_job(corpus, tmp_path, tiny_model):
    source, out = corpus / "part-0.parquet", tmp_path / "out"
    for names in (["entropy", "max_weight"], ["max_weight", "entropy"]):
        for part in list(out.glob("*.parquet"))[:1]:
            part.unlink()
        keys = {"attention.statistics": names, "runtime.unit_rows": 20}
        run(watched_job(tiny_model, source, out, **keys))
    table = pq.read_table(out)
    assert (attention_array(table, "max_weight") <= 1).all()
    of = load_attention(str(out))
    for name in ("entropy", "max_weight"):
        mean = attention_array(table, name).mean(0, np.float64)
        np.testing.assert_allclose(of.xs(name, level="statistic")["mean"], mean.ravel(), 1e-6)


def test_grouping_by_lists_is_refused_before_anything_is_written(tmp_path, tiny_model):
    table = pa.table({"text": ["a"], "tags": [["x", "y"]]})
    pq.write_table(table, tmp_path / "in.parquet")
    keys = {"input.carry": ["tags"], "attention.group_by": "tags"}
    with pytest.raises(JobError, match="'tags' is list"):
        run(make_job(tiny_model, tmp_path / "in.parquet", tmp_path / "out", **keys))
    assert not (tmp_path / "out").exists()


def test_comparing_what_cannot_be_compared(corpus, tmp_path, tiny_model):
    run(watched_job(tiny_model, corpus, tmp_path / "a"))
    run(watched_job(tiny_model, corpus, tmp_path / "b", **{"attention.queries": "content"}))
    run(make_job(tiny_model, corpus, tmp_path / "plain"))
    a, b, plain, none = (open_output(str(tmp_path / n)) for n in ("a", "b", "plain", "none"))
    with pytest.raises(JobError, match=r"attention\.queries: 'all' there, 'content'"):
        compare_outputs(a, b, across_models=True)
    with pytest.raises(JobError, match="without attention statistics"):
        compare_outputs(a, plain, across_models=False)
    with pytest.raises(JobError, match="no output of bertbatch"):
        read_corpus(none)
    with pytest.raises(JobError, match=r"no group \('label', 'x'\); it has"):
        load_attention(str(tmp_path / "a"), "label", "x")


def test_adjusted_p_values_by_hand():
    np.testing.assert_allclose(
        adjusted(np.array([0.01, 0.04, 0.03, 0.005])), [0.02, 0.04, 0.04, 0.02]
    )


def test_the_commands(corpus, tmp_path, tiny_model):
    run(watched_job(tiny_model, corpus, tmp_path / "out"))
    cli = CliRunner()
    to = tmp_path / "table.parquet"
    done = cli.invoke(app, ["attention", str(tmp_path / "out"), "--to", str(to)])
    assert done.exit_code == 0, done.output
    assert "normalized_entropy" in done.output
    assert "600 rows" in done.output
    table = pq.read_table(to)
    assert {"group", "value", "statistic", "layer", "head", "mean", "token_mean"} <= {
        *table.column_names
    }
    tops = json.loads(json.dumps(table.filter(pa.compute.field("group") == "all").to_pylist()))
    assert all(len(row["histogram"]) == BINS for row in tops)
    same = [str(tmp_path / "out"), "--against", str(tmp_path / "out"), "--to", str(to)]
    done = cli.invoke(app, ["attention", *same])
    assert "0 of 88 comparisons differ" in done.output
    done = cli.invoke(app, ["attention", str(tmp_path / "no")])
    assert done.exit_code == 2
    inside = ["attention", str(tmp_path / "out"), "--to", str(tmp_path / "out" / "t.parquet")]
    assert "lies inside" in cli.invoke(app, inside).output
    (tmp_path / "out" / "part-x-0-y.parquet").write_bytes(to.read_bytes())
    assert "is no part of bertbatch's" in cli.invoke(app, inside[:2]).output
    glance = ["peek", "a bc, d.", "--model", tiny_model]
    done = cli.invoke(app, [*glance, "--token", "bc"])
    assert done.exit_code == 2
    done = cli.invoke(app, [*glance, "d e", "--token", "b", "--layer", "2", "--head", "1"])
    assert done.exit_code == 0, done.output
    assert "label: " in done.output
    assert "layer 2, head 1, from b:" in done.output
    assert cli.invoke(app, [*glance, "--layer", "3"]).exit_code == 2
