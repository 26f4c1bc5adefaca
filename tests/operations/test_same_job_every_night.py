"""The same job every night: dates in paths, only what is new, one run at a time, alarms."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from bertbatch import Job, JobError, run
from bertbatch.cli import app
from bertbatch.output.folder import open_output
from tests.helpers.paths import WITH_FAULTS
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts


def records(out):
    return open_output(str(out)).runs()


def ids(out):
    return sorted(pd.read_parquet(out)["id"]) if list(Path(out).glob("*.parquet")) else []


def test_placeholders_in_paths_are_filled_in():
    data = {
        "input": {"path": ["in/{date}/*.csv", "in/{date-1}/*.csv"]},
        "output": {"path": "out/{date}/{run}"},
        "alarms": {"against": "out/{date-31}/x"},
        "date": "2026-03-01",
        "run": "again-2",
    }
    job = Job.build(data)
    assert job.input.path == ["in/2026-03-01/*.csv", "in/2026-02-28/*.csv"]
    assert job.output.path == "out/2026-03-01/again-2"
    assert job.alarms.against == "out/2026-01-29/x"
    assert Job.build(data, changes=["date=20251231"]).output.path == "out/2025-12-31/again-2"
    today = Job.build({**data, "date": time.strftime("%Y-%m-%d")}).output.path
    del data["date"]
    assert Job.build(data).output.path == today


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["output.path=out/{dat}"], "{dat} is no placeholder"),
        (["output.path=out/{date+1}"], "{date+1} is no placeholder"),
        (["run=../../etc"], "--run: "),
        (["run=a/b"], "--run: "),
        (["date=yesterday"], "--date: must be a day"),
        (["date=2026-02-30"], "--date: must be a day"),
        (["output.path=out/{date-1}", "date=0001-01-01"], "no day"),
    ],
)
def test_wrong_placeholders_are_refused(changes, says):
    with pytest.raises(JobError) as error:
        Job.build({"input": {"path": "in"}, "output": {"path": "out/{run}"}}, changes=changes)
    assert says in str(error.value)


def test_each_night_scores_what_is_new_and_resumes_what_was_killed(tmp_path, tiny_model):
    """Day 1; day 2 with new and changed files; day 2 again; a crash on day 3; day 0 at last."""
    folder, out, job_file = tmp_path / "in", tmp_path / "out", tmp_path / "job.yaml"
    texts = make_texts(1000)

    def arrives(day: int, name: str, first: int, stop: int) -> None:
        path = folder / f"day=2026-11-{20 + day}" / f"{name}.parquet"
        write_parquet(path, texts[first:stop], first, row_group_size=20)

    def night(day: int, **changes: str):
        settings = [f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
        return run(Job.load(job_file, [*settings, f"date=2026-11-{20 + day}"]))

    job = {
        "input": {"path": str(folder), "carry": ["id", "day"]},
        "output": {"path": str(out)},
        "model": {"name": tiny_model, "dtype": "float32", "tokens_per_batch": 512},
        "runtime": {"runner": "inline", "unit_rows": 20},
    }
    job_file.write_text(yaml.safe_dump(job))

    arrives(1, "a", 0, 100)
    arrives(1, "b", 100, 160)
    assert night(1).exit_code == 0
    assert ids(out) == list(range(160))

    arrives(1, "b", 900, 960)  # rewritten, after it was scored
    arrives(2, "c", 160, 260)
    with pytest.raises(JobError, match=r"(?s)day=2026-11-21/b.parquet.*with the date"):
        night(2)
    assert ids(out) == list(range(160))
    second = night(2, input__on_changed_source="keep")
    assert (second.exit_code, second.run.rows, second.run.rows_before) == (0, 100, 160)
    assert ids(out) == list(range(260))

    before = {p: p.stat().st_mtime_ns for p in out.glob("*.parquet")}
    again = night(2, input__on_changed_source="keep")
    assert (again.exit_code, again.run.rows) == (0, 0)
    assert {p: p.stat().st_mtime_ns for p in out.glob("*.parquet")} == before
    assert json.loads((out / "_SUCCESS.json").read_text())["rows_in"] == 260

    arrives(3, "d", 260, 660)
    command = [sys.executable, "-m", "bertbatch", "run", str(job_file), "--date", "2026-11-23"]
    faults = {"PYTHONPATH": WITH_FAULTS, "FAULT_SLEEP": "0.3"}
    crashing = subprocess.Popen(
        [*command, "--set", "input.on_changed_source=keep"],
        env={**os.environ, **faults},
        stderr=subprocess.DEVNULL,
    )
    while len(list(out.glob("*.parquet"))) < len(before) + 3:
        assert crashing.poll() is None, "ended before it could be killed"
        time.sleep(0.02)
    shown = CliRunner().invoke(app, ["status", str(out)]).stdout
    assert "running" in shown
    crashing.send_signal(signal.SIGKILL)
    crashing.wait()
    assert not (out / "_SUCCESS.json").exists()
    shown = CliRunner().invoke(app, ["status", str(out)]).stdout
    assert "stopped" in shown
    assert "/33 units" in shown
    there = len(ids(out))
    assert 260 < there < 660
    third = night(3, input__on_changed_source="keep")
    assert (third.exit_code, third.run.rows, third.run.rows_before) == (0, 660 - there, there)
    assert ids(out) == list(range(660))

    arrives(0, "late", 660, 700)
    late = night(0, input__on_changed_source="keep")
    assert (late.exit_code, late.run.rows) == (0, 40)
    frame = pd.read_parquet(out)
    assert sorted(frame["id"]) == list(range(700))
    assert Counter(frame["day"]) == {
        "2026-11-20": 40, "2026-11-21": 160, "2026-11-22": 100, "2026-11-23": 400
    }  # fmt: skip
    nights = [(r["date"], r["exit_code"], r["this_run"]["rows_scored"]) for r in records(out)]
    assert nights == [
        ("2026-11-21", 0, 160),
        ("2026-11-22", 0, 100),
        ("2026-11-22", 0, 0),
        ("2026-11-23", 0, 660 - there),
        ("2026-11-20", 0, 40),
    ]
    assert json.loads((out / "_SUCCESS.json").read_text())["rows_in"] == 700
    shown = CliRunner().invoke(app, ["status", str(out)], env={"COLUMNS": "200"}).stdout
    assert "complete" in shown
    assert "35/35 units, 700/700 rows" in shown
    assert shown.count("2026-11-22") == 2
    assert not (out / "_bertbatch" / "lease.json").exists()


def test_each_date_may_have_its_output_and_be_backfilled(tmp_path, tiny_model):
    texts = make_texts(90)
    for i, day in enumerate(("2026-11-20", "2026-11-21", "2026-11-22")):
        write_parquet(tmp_path / "in" / day / "x.parquet", texts[30 * i : 30 * i + 30], 30 * i)
    job = {
        "input": {"path": f"{tmp_path}/in/{{date}}", "carry": ["id"]},
        "output": {"path": f"{tmp_path}/out/{{date}}"},
        "model": {"name": tiny_model},
        "runtime": {"runner": "inline"},
    }
    for day in ("2026-11-21", "2026-11-22", "2026-11-20"):
        assert run(Job.build(job, changes=[f"date={day}"])).exit_code == 0
    for i, day in enumerate(("2026-11-20", "2026-11-21", "2026-11-22")):
        assert ids(tmp_path / "out" / day) == list(range(30 * i, 30 * i + 30))


def test_json_lines_say_run_unit_and_source(tmp_path, tiny_model, corpus):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "bertbatch", "score", str(corpus), str(out), "--log", "json"]
    done = subprocess.run(
        [*command, "--model", tiny_model, "--runner", "inline"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    (run_id,) = {line["run"] for line in lines}
    assert [r["run"] for r in records(out)] == [run_id]
    units = {line["unit"]: line["source"] for line in lines if line["event"] == "progress"}
    parts = {p.stem.rpartition("-")[2]: p for p in out.glob("*.parquet")}
    assert units.keys() == parts.keys()
    for id_, source in units.items():
        assert pq.read_table(parts[id_])["source"][0].as_py() == source
