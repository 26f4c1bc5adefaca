"""Attention statistics through the job: each row's columns, the corpus's table, the commands."""

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
from bertbatch.attention.aggregates import BINS
from bertbatch.attention.comparison import compare_outputs
from bertbatch.attention.corpus import read_corpus
from bertbatch.cli import app
from bertbatch.output.folder import open_output
from bertbatch.registry import DEFAULT_STATISTICS, STATISTICS
from tests.helpers.classifiers import save
from tests.helpers.command_line import finish, start, wait_for_parts
from tests.helpers.jobs import make_job
from tests.helpers.scaled_head import scaled_head
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_model, make_texts


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
    assert len(statistics) == len(DEFAULT_STATISTICS) * 2 * 4
    counts = pd.json_normalize(table.column("attn_queries").to_pylist())
    for name in DEFAULT_STATISTICS:
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


def test_pandas_and_duckdb_read_the_columns(corpus, tmp_path, tiny_model):
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


def test_a_sample_and_the_corpus_alone_have_the_same_statistics(corpus, tmp_path, tiny_model):
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


def test_killed_workers_and_drivers_lose_and_double_nothing(corpus, tmp_path, tiny_model):
    run(watched_job(tiny_model, corpus, tmp_path / "expected"))
    out = tmp_path / "out"
    options = ("--attention", "--unit-rows", "20")
    process = start(tiny_model, corpus, out, *options, FAULT_SLEEP="0.3")
    wait_for_parts(out, 3, process)
    children = psutil.Process(process.pid).children(recursive=True)
    next(c for c in children if any("Scorer" in word for word in c.cmdline())).kill()
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


def test_an_orphaned_file_is_ignored(corpus, tmp_path, tiny_model):
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
        ({"attention.group_by": "id", "input.carry": ["id:key"]}, "'id' is carried as 'key'"),
        ({"attention.sample": 0}, "must be above 0"),
        ({"attention.samples": 1}, "did you mean 'attention.sample'"),
        ({"model.engine": "openvino", "attention.sample": 1}, "openvino gives no statistics"),
    ],
)
def test_wrong_settings_are_refused(keys, message, tmp_path):
    with pytest.raises(JobError, match=message):
        make_job("x", "in", tmp_path / "out", **keys)


def test_a_model_that_cannot_is_refused_before_anything_is_written(runner, corpus, tmp_path):
    save(tmp_path / "rembert", "rembert")
    keys: dict[str, Any] = {"attention.sample": 1.0, "model.max_length": 60}
    job = make_job(str(tmp_path / "rembert"), corpus, tmp_path / "out", runner, **keys)
    with pytest.raises(
        JobError, match=r"rembert \(RemBert.*cannot give statistics.*docs/models.md"
    ):
        run(job)
    assert not (tmp_path / "out").exists()


def test_rows_without_finite_logits_are_in_no_aggregate(tmp_path):
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


def test_halves_of_a_corpus_agree_and_a_changed_head_comes_first(tmp_path):
    # Weights as large as a trained model's, so that heads differ, but none is one-hot.
    model = make_model(tmp_path / "model", initializer_range=0.2)
    texts = make_texts(1200, seed=5)
    for name, half in (("a", texts[::2]), ("b", texts[1::2])):
        write_parquet(tmp_path / f"{name}.parquet", half)
        run(watched_job(model, tmp_path / f"{name}.parquet", tmp_path / name))
    halves = compare_outputs(*(open_output(str(tmp_path / n)) for n in "ab"), across_models=False)
    assert halves.table.num_rows == len(DEFAULT_STATISTICS) * 8
    assert halves.sure == 0
    other = scaled_head(model, tmp_path / "other", 1, 2)
    run(watched_job(other, tmp_path / "a.parquet", tmp_path / "c"))
    two = [open_output(str(tmp_path / n)) for n in "ca"]
    with pytest.raises(JobError, match=r"model\.weights(.|\n)*--across-models"):
        compare_outputs(*two, across_models=False)
    first = compare_outputs(*two, across_models=True).table.to_pylist()[0]
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


def test_what_is_no_table_of_statistics_is_told(tmp_path, tiny_model):
    write_parquet(tmp_path / "in.parquet", ["a b", "c"])
    keys = {"attention.statistics": ["entropy", "to_sep"]}
    run(watched_job(tiny_model, tmp_path / "in.parquet", tmp_path / "out", **keys))
    table = pq.read_table(tmp_path / "out")
    with pytest.raises(JobError, match=r"pandas's DataFrame has lost.*pass an Arrow table"):
        attention_array(table.to_pandas(), "entropy")
    with pytest.raises(JobError, match=r"no statistic 'entropi' .*; it has entropy, to_sep$"):
        attention_array(table, "entropi")
    with pytest.raises(JobError, match="it has none"):
        attention_array(table.select(["label"]), "entropy")


def test_grouping_by_lists_is_refused_before_anything_is_written(tmp_path, tiny_model):
    table = pa.table({"text": ["a"], "tags": [["x", "y"]]})
    pq.write_table(table, tmp_path / "in.parquet")
    keys = {"input.carry": ["tags"], "attention.group_by": "tags"}
    with pytest.raises(JobError, match="'tags' is list"):
        run(make_job(tiny_model, tmp_path / "in.parquet", tmp_path / "out", **keys))
    assert not (tmp_path / "out").exists()


def test_outputs_that_cannot_be_compared_are_refused(corpus, tmp_path, tiny_model):
    run(watched_job(tiny_model, corpus, tmp_path / "a"))
    run(watched_job(tiny_model, corpus, tmp_path / "b", **{"attention.queries": "content"}))
    run(make_job(tiny_model, corpus, tmp_path / "plain"))
    a, b, plain, none = (open_output(str(tmp_path / n)) for n in ("a", "b", "plain", "none"))
    with pytest.raises(JobError, match=r"attention\.queries: 'all' there, 'content'"):
        compare_outputs(a, b, across_models=True)
    with pytest.raises(JobError, match="without attention statistics"):
        compare_outputs(a, plain, across_models=False)
    with pytest.raises(JobError, match="is not an output of bertbatch"):
        read_corpus(none)
    with pytest.raises(JobError, match=r"no group \('label', 'x'\); it has"):
        load_attention(str(tmp_path / "a"), "label", "x")


def test_the_commands_print_and_write_their_tables(corpus, tmp_path, tiny_model):
    for name in ("out", "other"):
        run(watched_job(tiny_model, corpus, tmp_path / name))
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
    tops = table.filter(pa.compute.field("group") == "all").to_pylist()
    assert all(len(row["histogram"]) == BINS for row in tops)
    same = [str(tmp_path / "out"), "--against", str(tmp_path / "other"), "--to", str(to)]
    done = cli.invoke(app, ["attention", *same])
    assert "0 of 88 comparisons differ" in done.output
    assert "… and 68 more comparisons" in done.output
    done = cli.invoke(app, ["attention", str(tmp_path / "no")])
    assert done.exit_code == 2
    inside = ["attention", str(tmp_path / "out"), "--to", str(tmp_path / "out" / "t.parquet")]
    assert "lies inside" in cli.invoke(app, inside).output
    (tmp_path / "out" / "part-x-0-y.parquet").write_bytes(to.read_bytes())
    assert "is not a part of bertbatch" in cli.invoke(app, inside[:2]).output
    glance = ["peek", "a bc, d.", "--model", tiny_model]
    done = cli.invoke(app, [*glance, "--token", "bc"])
    assert done.exit_code == 2
    done = cli.invoke(app, [*glance, "d e", "--token", "b", "--layer", "2", "--head", "1"])
    assert done.exit_code == 0, done.output
    assert "label: " in done.output
    assert "layer 2, head 1, from b:" in done.output
    assert cli.invoke(app, [*glance, "--layer", "3"]).exit_code == 2
