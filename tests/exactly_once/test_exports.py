"""An export has each scored row once: again, killed in the middle, or raced by another."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertbatch import Job, JobError, run
from bertbatch.exports import export as exporting
from bertbatch.exports import folder
from bertbatch.exports.export import Request, export
from bertbatch.exports.rows import ExportedRows
from bertbatch.output.folder import open_output
from bertbatch.plan.log import stored_plan
from bertbatch.runtime import worker
from tests.helpers.command_line import invoke
from tests.helpers.jobs import CARRY
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts

TEXTS = make_texts(90)
READ = {
    "parquet": pd.read_parquet,
    "csv": pd.read_csv,
    "jsonl": lambda path: pd.read_json(path, lines=True),
}


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in").mkdir()
    write_parquet(tmp_path / "in" / "b.parquet", [*TEXTS[:50], None], 100, row_group_size=10)
    write_parquet(tmp_path / "in" / "a.parquet", TEXTS[50:], 0, row_group_size=10)
    return tmp_path / "in"


@pytest.fixture
def output(source, tmp_path, score):
    score(source, tmp_path / "out", **CARRY, **{"runtime.unit_rows": 10})
    return tmp_path / "out"


def wanted(output: Path) -> pd.DataFrame:
    found = pd.concat(pd.read_parquet(path) for path in sorted(output.glob("part-*.parquet")))
    found["source"] = found["source"].astype(str)
    return found.sort_values(["source", "row"], ignore_index=True)


def read(target: Path, format_: str) -> pd.DataFrame:
    files = [target] if target.is_file() else sorted(target.rglob(f"*.{format_}"))
    return pd.concat([READ[format_](file) for file in files], ignore_index=True)


def same(found: pd.DataFrame, output: Path, ordered: bool = True) -> None:
    theirs = wanted(output)
    if not ordered:
        found = found.sort_values(["source", "row"], ignore_index=True)
    for name in ("source", "row", "id", "label"):
        assert found[name].tolist() == theirs[name].tolist(), name
    assert found["score"].to_numpy() == pytest.approx(theirs["score"].to_numpy(), abs=1e-6)


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


def test_rows_scored_again_stand_where_they_belong(source, tmp_path, score, monkeypatch) -> None:
    """Those that the first export lacked are in its next files; a new export has them inside."""
    bad, whole = {12, 13}, worker.scoring.score

    def failing(engine, tokens, first, stop, *rest):
        if bad & set(tokens.lengths[first:stop].tolist()):
            raise ValueError("out of luck")
        return whole(engine, tokens, first, stop, *rest)

    monkeypatch.setattr(worker.scoring, "score", failing)
    keys = {**CARRY, "runtime.unit_rows": 10, "limits.max_quarantined": 1.0}
    score(source, tmp_path / "out", **keys)
    first = Request(str(tmp_path / "out"), str(tmp_path / "first"))
    absent = export(first).rows_quarantined
    assert absent > 1
    bad.clear()
    score(source, tmp_path / "out", **keys, **{"runtime.retry_quarantined": True})
    done = export(first)
    assert (done.rows_added, done.rows) == (absent - 1, 90)
    same(read(tmp_path / "first", "parquet"), tmp_path / "out", ordered=False)
    export(Request(str(tmp_path / "out"), str(tmp_path / "second")))
    same(read(tmp_path / "second", "parquet"), tmp_path / "out")


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


FOREIGN = [
    ("rows", "rows/x.txt", {}, "holds .*x.txt, which is no export"),
    ("rows.csv", "rows.csv", {}, "is not what an export of .* wrote"),
    ("out/inside", None, {}, "lie in one another"),
    ("rows.csv", None, {"format": "parquet"}, "is named as a .csv file"),
    ("rows.orc", None, {}, "writes .parquet, .csv or .jsonl files"),
    ("rows.csv.gz", None, {}, "writes .parquet, .csv or .jsonl files"),
    ("rows.csv", None, {"partition_by": ("label",)}, "name a folder"),
    ("rows", None, {"partition_by": ("nothing",)}, "no column 'nothing'"),
    ("rows", None, {"partition_by": ("scores",)}, "column 'scores' is list"),
    ("rows", None, {"partition_by": ("score",)}, "column 'score' is float"),
]


@pytest.mark.parametrize(("target", "there", "keys", "said"), FOREIGN)
def test_a_target_that_is_not_ours_is_left_alone(
    target, there, keys, said, output, tmp_path
) -> None:
    if there:
        (tmp_path / there).parent.mkdir(exist_ok=True)
        (tmp_path / there).write_text("mine")
    with pytest.raises(JobError, match=said):
        export(Request(str(output), str(tmp_path / target), **keys))
    if there:
        assert (tmp_path / there).read_text() == "mine"
    assert not list(tmp_path.glob(".bertbatch-*"))


def test_other_settings_and_outputs_are_refused(output, source, tmp_path, score) -> None:
    target = str(tmp_path / "rows")
    export(Request(str(output), target))
    with pytest.raises(JobError, match="other settings"):
        export(Request(str(output), target, partition_by=("label",)))
    score(source, tmp_path / "other", **CARRY)
    with pytest.raises(JobError, match="another output"):
        export(Request(str(tmp_path / "other"), target))


def test_a_file_that_was_changed_is_told_of(output, tmp_path) -> None:
    target = tmp_path / "rows"
    export(Request(str(output), str(target)))
    (file,) = target.glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(JobError, match="instead of"):
        export(Request(str(output), str(target)))
    file.unlink()
    with pytest.raises(JobError, match="is gone"):
        export(Request(str(output), str(target)))


CODE = """
import sys
from bertbatch.exports import folder
from bertbatch.exports.export import Request, export
folder.FILE_ROWS = 7
print("ready", flush=True)
export(Request(sys.argv[1], sys.argv[2]))
"""


def started(output: Path, target: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", CODE, str(output), str(target)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize("name", ["rows", "rows.csv", "rows.parquet"])
def test_killed_exports_end_equal(name, output, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(folder, "FILE_ROWS", 7)
    draw = random.Random(1)
    killed = 0
    for i in range(8):
        target = tmp_path / str(i) / name
        process = started(output, target)
        time.sleep(draw.uniform(0, 0.12))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        export(Request(str(output), str(target)))
        same(read(target, "csv" if name.endswith("csv") else "parquet"), output)
    assert killed


@pytest.mark.parametrize("name", ["rows", "rows.parquet"])
def test_racing_exports_agree(name, output, source, tmp_path, score) -> None:
    target = tmp_path / name
    for more in range(3):
        processes = [started(output, target) for _ in range(2)]
        assert [process.wait() for process in processes] == [0, 0]
        same(read(target, "parquet"), output)
        write_parquet(source / f"more-{more}.parquet", TEXTS[:20], 1000 * more)
        score(source, output, **CARRY, **{"runtime.unit_rows": 10})


def test_the_command_says_what_it_did(output, tmp_path) -> None:
    code, said = invoke("export", str(output), str(tmp_path / "rows.jsonl"), "--with-input")
    assert code == 0
    assert "written  90 rows" in said
    assert "90 rows as jsonl; absent: 1 in quarantine" in said
    code, said = invoke("export", str(output), str(tmp_path / "rows.jsonl"), "--with-input")
    assert "nothing new" in said
    code, said = invoke("export", str(tmp_path / "nowhere"), str(tmp_path / "x"))
    assert (code, said.count("\n")) == (2, 1)


@pytest.mark.parametrize("format_", ["parquet", "delta"])
def test_an_exporter_that_began_earlier_writes_what_others_planned(
    format_, output, source, tmp_path, score, monkeypatch
) -> None:
    """It finds a batch with parts that were planned after it began."""
    request = Request(str(output), str(tmp_path / "rows"), format_)
    export(request)
    old = stored_plan(open_output(str(output)), open_output(str(output)).existing_contract())
    write_parquet(source / "c.parquet", TEXTS[:7], 500)
    score(source, output, **CARRY, **{"runtime.unit_rows": 10})
    whole = ExportedRows.read
    monkeypatch.setattr(ExportedRows, "read", lambda *_: 1 / 0)  # killed with its batch begun
    with pytest.raises((ZeroDivisionError, JobError)):
        export(request)
    monkeypatch.setattr(ExportedRows, "read", whole)
    monkeypatch.setattr(exporting, "stored_plan", lambda *_: old)
    assert export(request).rows_added == 7


def test_values_that_share_a_folder_share_its_file(tmp_path, score) -> None:
    values = ["", None, "x", "__HIVE_DEFAULT_PARTITION__"]
    pq.write_table(pa.table({"text": TEXTS[:4], "k": values}), tmp_path / "x.parquet")
    score(tmp_path / "x.parquet", tmp_path / "out", **{"input.carry": ["k"]})
    export(Request(str(tmp_path / "out"), str(tmp_path / "rows"), partition_by=("k",)))
    assert sorted(read(tmp_path / "rows", "parquet")["row"]) == [0, 1, 2, 3]


def test_an_output_may_be_moved(output, source, tmp_path) -> None:
    output.rename(tmp_path / "moved")
    request = Request(str(tmp_path / "moved"), str(tmp_path / "rows.parquet"), with_input=True)
    assert export(request).rows_added == 90
    assert pq.read_table(tmp_path / "rows.parquet")["text"].null_count == 0


def test_a_restored_output_is_refused(output, source, tmp_path, score) -> None:
    request = Request(str(output), str(tmp_path / "rows"))
    export(request)
    records = output / "_bertbatch" / "exports"
    shutil.copytree(records, tmp_path / "backup")
    write_parquet(source / "c.parquet", TEXTS[:7], 500)
    score(source, output, **CARRY)
    export(request)
    shutil.rmtree(records)
    shutil.copytree(tmp_path / "backup", records)
    write_parquet(source / "d.parquet", TEXTS[:3], 600)
    score(source, output, **CARRY)
    with pytest.raises(JobError, match="copied or restored"):
        export(request)


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
