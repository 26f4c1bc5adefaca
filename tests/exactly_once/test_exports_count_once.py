"""An export has each scored row once: again, killed in the middle, or raced by another."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertbatch import JobError
from bertbatch.exports import export as exporting
from bertbatch.exports import folder
from bertbatch.exports.export import Request, export
from bertbatch.exports.rows import ExportedRows
from bertbatch.output.folder import open_output
from bertbatch.plan.log import stored_plan
from bertbatch.runtime import worker
from tests.helpers.exported import read, same
from tests.helpers.jobs import CARRY
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts

TEXTS = make_texts(90)


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


FOREIGN = [
    ("rows", "rows/x.txt", {}, "holds .*x.txt, which is no export"),
    ("rows.csv", "rows.csv", {}, "is not what an export of .* wrote"),
    ("out/inside", None, {}, "lie in one another"),
    ("rows.csv", None, {"format": "parquet"}, "is named as a .csv file"),
    ("rows.CSV", None, {"format": "parquet"}, "is named as a .csv file"),
    ("rows.orc", None, {}, "writes .parquet, .csv or .jsonl files"),
    ("rows.XLSX", None, {}, "writes .parquet, .csv or .jsonl files"),
    ("rows.html", None, {}, "writes .parquet, .csv or .jsonl files"),
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


def test_a_batch_of_other_parts_than_the_target_has_is_refused(output, tmp_path) -> None:
    request = Request(str(output), str(tmp_path / "rows"))
    export(request)
    (record,) = (output / "_bertbatch" / "exports").glob("*/00000001.json")
    record.write_text(json.dumps({"parts": json.loads(record.read_text())["parts"][:-1]}))
    with pytest.raises(JobError, match="copied or restored"):
        export(request)


def test_other_settings_of_a_file_are_refused(output, tmp_path) -> None:
    target = tmp_path / "rows.csv"
    export(Request(str(output), str(target), with_input=True))
    before = target.read_bytes()
    with pytest.raises(JobError, match=r"other settings \(columns\)"):
        export(Request(str(output), str(target)))
    assert target.read_bytes() == before
    assert export(Request(str(output), str(target), with_input=True)).rows_added == 0
    target.unlink()
    export(Request(str(output), str(target)))
    assert target.read_bytes() != before
