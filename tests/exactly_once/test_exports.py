"""An export has the rows, columns and order of its output, whatever it is written as."""

import os

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertbatch import Job, JobError, run
from bertbatch.exports.export import Request, export
from tests.helpers.command_line import invoke
from tests.helpers.exported import READ, read, same, wanted
from tests.helpers.jobs import CARRY
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts

TEXTS = make_texts(90)


@pytest.mark.parametrize("format_", READ)
@pytest.mark.parametrize("single", [True, False])
def test_each_row_is_there_in_source_order(
    format_, single, output, source, tmp_path, score
) -> None:
    target = tmp_path / ("rows." + format_ if single else "rows")
    request = Request(str(output), str(target), None if single else format_)
    done = export(request)
    assert (done.rows_added, done.rows, done.rows_quarantined) == (90, 90, 1)
    same(read(target, format_), output)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("rows*") if path.is_file()}
    assert export(request).rows_added == 0
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())

    # What is new comes in again: a file is written anew, a folder gains files.
    old = {path: path.read_bytes() for path in target.rglob(f"*.{format_}")}
    write_parquet(source / "c.parquet", TEXTS[:7], 500)
    score(source, output, **CARRY, **{"runtime.unit_rows": 10})
    assert export(request).rows_added == (97 if single else 7)
    same(read(target, format_), output)
    assert all(path.read_bytes() == content for path, content in old.items())


def test_many_parts_become_few_files(output, tmp_path) -> None:
    export(Request(str(output), str(tmp_path / "rows")))
    assert len(list(output.glob("part-*"))) >= 9
    assert len(list((tmp_path / "rows").glob("*.parquet"))) == 1


@pytest.mark.parametrize("format_", ["parquet", "csv", "jsonl"])
def test_partitions_are_read_by_others(format_, output, tmp_path) -> None:
    target = tmp_path / "rows"
    request = Request(str(output), str(target), format_, ("label", "source"))
    export(request)
    reader = {"parquet": "read_parquet", "csv": "read_csv", "jsonl": "read_json"}[format_]
    glob = f"{target}/**/*.{format_}"
    options = "hive_partitioning = true"
    query = f"SELECT source, row, id, label, score FROM {reader}('{glob}', {options})"
    same(duckdb.sql(query).df(), output, ordered=False)
    if format_ == "parquet":
        same(pd.read_parquet(target).astype({"source": str, "label": str}), output, ordered=False)


def test_odd_partition_values_come_back(tmp_path, score) -> None:
    values = ["a/b", "a=b", "100%", "日本", None, "x y", "a:b", "."]
    pq.write_table(pa.table({"text": TEXTS[:8], "k": values}), tmp_path / "x.parquet")
    score(tmp_path / "x.parquet", tmp_path / "out", **{"input.carry": ["k"]})
    export(Request(str(tmp_path / "out"), str(tmp_path / "rows"), partition_by=("k",)))
    rows = f"read_parquet('{tmp_path}/rows/**/*.parquet', hive_partitioning = true)"
    found = duckdb.sql(f"SELECT row, k FROM {rows} ORDER BY row").fetchall()
    assert [k for _, k in found] == values


def test_the_inputs_columns_come_beside(tmp_path, score) -> None:
    (tmp_path / "in" / "day=1").mkdir(parents=True)
    table = pa.table({"text": [*TEXTS[:40], None], "label": range(41), "extra": [[1]] * 41})
    pq.write_table(table, tmp_path / "in" / "day=1" / "x.parquet", row_group_size=9)
    keys = {"runtime.unit_rows": 9, "input.carry": ["extra"]}
    score(tmp_path / "in", tmp_path / "out", **keys)
    target = tmp_path / "rows.parquet"
    export(Request(str(tmp_path / "out"), str(target), with_input=True))
    found = pq.read_table(target)
    assert found["text"].to_pylist() == TEXTS[:40]
    assert found["label_in"].to_pylist() == list(range(40))
    assert found["extra"].to_pylist() == [[1]] * 40
    assert found["day"].to_pylist() == ["1"] * 40
    os.utime(tmp_path / "in" / "day=1" / "x.parquet", (1, 1))
    with pytest.raises(JobError, match="has changed"):
        export(Request(str(tmp_path / "out"), str(tmp_path / "again.csv"), with_input=True))
    assert not (tmp_path / "again.csv").exists()


def test_classes_are_columns(output, tmp_path) -> None:
    export(Request(str(output), str(tmp_path / "rows.parquet"), class_columns=True))
    found = pq.read_table(tmp_path / "rows.parquet")
    scores = [list(row) for row in wanted(output)["scores"]]
    names = [name for name in found.column_names if name.startswith("p_")]
    assert len(names) == len(scores[0])
    columns = [found[name].to_pylist() for name in names]
    assert [list(row) for row in zip(*columns, strict=True)] == scores
    assert "scores" not in found.column_names


def test_the_command_says_what_it_did(output, tmp_path) -> None:
    code, said = invoke("export", str(output), str(tmp_path / "rows.jsonl"), "--with-input")
    assert code == 0
    assert "written  90 rows" in said
    assert "90 rows as jsonl; absent: 1 in quarantine" in said
    code, said = invoke("export", str(output), str(tmp_path / "rows.jsonl"), "--with-input")
    assert "nothing new" in said
    code, said = invoke("export", str(tmp_path / "nowhere"), str(tmp_path / "x"))
    assert (code, said.count("\n")) == (2, 1)


def test_an_output_may_be_moved(output, source, tmp_path) -> None:
    output.rename(tmp_path / "moved")
    request = Request(str(tmp_path / "moved"), str(tmp_path / "rows.parquet"), with_input=True)
    assert export(request).rows_added == 90
    assert pq.read_table(tmp_path / "rows.parquet")["text"].null_count == 0


def test_odd_types_are_written(tmp_path, score) -> None:
    rows = pa.table(
        {
            "text": TEXTS[:2],
            "at": pa.array([1, 10**15 + 1], pa.timestamp("ns")),
            "in": pa.array([{"t": 1}, None], pa.struct([("t", pa.timestamp("ns"))])),
            "raw": [b"a\xff", None],
            "fixed": pa.array([b"ab", b"\xff\xff"], pa.binary(2)),
            "p_negative": [1.0, 2.0],
        }
    )
    pq.write_table(rows, tmp_path / "in.parquet")
    score(tmp_path / "in.parquet", tmp_path / "out", **{"input.carry": "*"})
    for ending in ("csv", "jsonl", "parquet"):
        target = tmp_path / f"x.{ending}"
        assert export(Request(str(tmp_path / "out"), str(target))).rows_added == 2
        assert len(read(target, ending)) == 2
    assert pd.read_csv(tmp_path / "x.csv")["raw"].tolist()[0] == "Yf8="


def test_several_models_come_with_their_input(tmp_path, tiny_model, source) -> None:
    job = Job.build(
        {
            "input": {"path": str(source)},
            "output": {"path": str(tmp_path / "out")},
            "models": [{"name": tiny_model, "as": "one"}, {"name": tiny_model, "as": "two"}],
            "model": {"dtype": "float32", "tokens_per_batch": 512},
            "runtime": {"runner": "inline"},
        }
    )
    run(job)
    export(Request(str(tmp_path / "out"), str(tmp_path / "x.csv"), with_input=True))
    assert {"one_label", "two_label", "text"} <= set(pd.read_csv(tmp_path / "x.csv").columns)
