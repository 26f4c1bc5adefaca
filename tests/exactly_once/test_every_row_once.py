"""The main job, on both runners: every row once, in order, with transformers' own answers."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from bertbatch import run
from bertbatch.runtime.preflight import check_job
from tests.helpers.jobs import make_job
from tests.helpers.reference import one_at_a_time, raw_logits
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_model, make_texts


def test_every_row_once_in_order_with_transformers_answers(
    score, corpus, tmp_path, tiny_model, runner
):
    out = tmp_path / "out"
    result = score(corpus, out, runner, **{"input.carry": ["id:key"], "runtime.unit_rows": 70})
    assert result.exit_code == 0
    table = result.to_pandas()
    assert list(table.columns) == [
        "source", "row", "key", "label", "score", "scores", "n_tokens", "truncated", "unk_share",
    ]  # fmt: skip
    assert table["key"].tolist() == list(range(600))
    source = pd.concat([pd.read_parquet(p) for p in sorted(corpus.iterdir())], ignore_index=True)
    expected = one_at_a_time(tiny_model, source["text"].tolist())
    got = np.stack(table["scores"])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert (table["score"] == got.max(axis=1)).all()
    assert table["label"].tolist() == [["negative", "positive"][i] for i in got.argmax(axis=1)]
    counts = table.groupby("source", observed=True).row.apply(list)
    assert {k: v == list(range(len(v))) for k, v in counts.items()} == dict.fromkeys(
        ["part-0.parquet", "part-1.parquet", "part-2.parquet"], True
    )


def test_equal_workers_agree_bit_for_bit(score, corpus, tmp_path, ray_here, monkeypatch):
    """Of one kind (processor, threads), whatever the runner. MKL shares its sums among threads."""
    monkeypatch.setattr("bertbatch.runtime.executors.inline.available_cores", lambda: 1)
    keys = {"input.carry": ["id"], "runtime.unit_rows": 70}
    inline = score(corpus, tmp_path / "a", "inline", **keys).to_pandas()
    on_ray = score(corpus, tmp_path / "b", "ray", **keys).to_pandas()
    pd.testing.assert_frame_equal(inline, on_ray)


@pytest.mark.parametrize(
    ("megabytes", "unit_mib", "least", "most"),
    [
        *((0.05, "auto", 1, 1), (1, "auto", 14, 20), (10, "auto", 55, 80)),
        *((100, "auto", 90, 120),),
        *((10, 1.0, 9, 12), (10, 4.0, 2, 4)),
    ],
)
def test_a_small_input_is_cut_finer(megabytes, unit_mib, least, most, tmp_path, tiny_model):
    noise = np.random.default_rng(0).integers(97, 123, int(megabytes * 1e6), np.uint8)
    texts = [noise[i : i + 1000].tobytes().decode() for i in range(0, len(noise), 1000)]
    write_parquet(tmp_path / "in.parquet", texts, compression="none", use_dictionary=False)
    size = {"runtime.unit_mib": unit_mib}
    found = check_job(make_job(tiny_model, tmp_path / "in.parquet", tmp_path / "out", **size))
    units = [u for us in found.planner(False).extend(found.listing.sources) for u in us]
    assert least <= len(units) <= most
    assert sum(unit.rows for unit in units) == len(texts)


def test_a_missing_part_is_scored_again_and_nothing_else(score, corpus, tmp_path, runner):
    out = tmp_path / "out"
    score(corpus, out, runner, **{"runtime.unit_rows": 70})
    record = json.loads((out / "_SUCCESS.json").read_text())
    assert record["rows_in"] == record["rows_scored"] == 600
    parts = sorted(out.glob("*.parquet"))
    assert record["units"] == len(parts)
    gone = parts[3]
    removed = pq.read_table(gone).to_pylist()
    others = {p: p.stat().st_mtime_ns for p in parts if p != gone}
    gone.unlink()
    # Another unit size: the stored plan is what counts.
    result = score(corpus, out, runner, **{"runtime.unit_rows": 11})
    assert result.exit_code == 0
    assert result.run.units == 1
    assert result.run.units_before == len(parts) - 1
    assert {p: p.stat().st_mtime_ns for p in others} == others
    assert pq.read_table(gone).to_pylist() == removed


def test_nothing_new_is_success_and_writes_nothing(score, corpus, tmp_path):
    out = tmp_path / "out"
    score(corpus, out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")}
    success = (out / "_SUCCESS.json").read_bytes()
    result = score(corpus, out)
    assert result.exit_code == 0
    assert result.run.units == 0
    assert (out / "_SUCCESS.json").read_bytes() == success
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")} == before


def test_new_files_are_new_units(score, corpus, tmp_path):
    out = tmp_path / "out"
    score(corpus, out, **{"input.carry": ["id"]})
    write_parquet(corpus / "part-9.parquet", make_texts(40, seed=9), first=600)
    result = score(corpus, out, **{"input.carry": ["id"]})
    assert result.run.rows_scored == 40
    assert result.totals["rows_in"] == 640
    assert result.to_pandas()["id"].tolist() == list(range(640))


def test_repeated_texts_get_the_same_answer_and_empty_is_scored(score, tmp_path):
    write_parquet(tmp_path / "in.parquet", ["same text", "", "other", "same text"])
    table = score(tmp_path / "in.parquet", tmp_path / "out").to_pandas()
    assert table["row"].tolist() == [0, 1, 2, 3]
    assert table["scores"][0].tolist() == table["scores"][3].tolist()
    assert table["n_tokens"][1] == 2


def test_small_files_share_a_part(score, tmp_path):
    for i in range(40):
        write_parquet(tmp_path / "in" / f"f{i:03d}.parquet", make_texts(3, seed=i), first=3 * i)
    result = score(tmp_path / "in", tmp_path / "out", **{"input.carry": ["id"]})
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 1
    table = result.to_pandas()
    assert table["id"].tolist() == list(range(120))
    assert table["source"].tolist() == [f"f{i // 3:03d}.parquet" for i in range(120)]
    assert table["row"].tolist() == [0, 1, 2] * 40


def test_limit_takes_the_first_rows(score, corpus, tmp_path):
    keys = {"input.limit": 130, "input.carry": ["id"]}
    result = score(corpus, tmp_path / "out", **keys)
    assert result.to_pandas()["id"].tolist() == list(range(130))
    assert score(corpus, tmp_path / "out", **keys).run.units == 0


def test_partition_folders_can_be_carried(score, tmp_path):
    for day in ("2026-11-22", "2026-11-23"):
        write_parquet(tmp_path / "in" / f"day={day}" / "a.parquet", make_texts(5))
    table = score(tmp_path / "in", tmp_path / "out", **{"input.carry": ["day", "id"]}).to_pandas()
    assert table["day"].tolist() == ["2026-11-22"] * 5 + ["2026-11-23"] * 5
    assert table["source"].unique().tolist() == [
        "day=2026-11-22/a.parquet",
        "day=2026-11-23/a.parquet",
    ]


@pytest.mark.parametrize(
    ("problem", "classes", "columns"),
    [
        ("multi_label_classification", 3, ["labels", "scores"]),
        ("regression", 1, ["value"]),
    ],
)
def test_each_problem_type_has_its_columns(problem, classes, columns, tmp_path):
    names = {i: f"c{i}" for i in range(classes)}
    model = make_model(
        tmp_path / "model", problem_type=problem, id2label=names,
        label2id={v: k for k, v in names.items()},
    )  # fmt: skip
    texts = make_texts(50)
    write_parquet(tmp_path / "in.parquet", texts)
    table = run(make_job(model, tmp_path / "in.parquet", tmp_path / "out")).to_pandas()
    assert list(table.columns) == ["source", "row", *columns, "n_tokens", "truncated", "unk_share"]
    logits = raw_logits(model, texts)
    if problem == "regression":
        np.testing.assert_allclose(table["value"], logits[:, 0], atol=1e-4)
    else:
        expected = 1 / (1 + np.exp(-logits))
        np.testing.assert_allclose(np.stack(table["scores"]), expected, atol=1e-4)
        assert [list(row) for row in table["labels"]] == [
            [names[i] for i in np.flatnonzero(row > 0.5)] for row in expected
        ]


def test_labels_may_come_from_the_job(score, corpus, tmp_path):
    table = score(corpus, tmp_path / "out", **{"model.labels": ["bad", "good"]}).to_pandas()
    assert set(table["label"]) == {"bad", "good"}


def test_pyarrow_pandas_and_duckdb_read_the_output(score, corpus, tmp_path):
    import duckdb
    import pyarrow.dataset as ds

    out = tmp_path / "out"
    score(corpus, out, **{"input.carry": ["id"], "runtime.unit_rows": 70})
    ids = set(range(600))
    assert set(ds.dataset(out).to_table().column("id").to_pylist()) == ids
    assert set(pd.read_parquet(out)["id"]) == ids
    for glob in (f"{out}/*.parquet", f"{out}/**/*.parquet"):
        rows = duckdb.sql(f"select id, label, score from '{glob}'").fetchall()
        assert {row[0] for row in rows} == ids
        assert len(rows) == 600
