"""The same job every night: dates in paths, only what is new, one run at a time, alarms."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from bertbatch import Job, JobError, lease, run
from bertbatch.cli import app
from bertbatch.errors import Alarm
from bertbatch.output import Output, open_output
from bertbatch.results import Watcher
from tests.conftest import make_job, write_parquet
from tests.tiny import make_texts

ROOT = Path(__file__).parent.parent


@pytest.fixture
def quick(monkeypatch):
    """A lease that beats and is given up within a second."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 1.5)
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.05)


def records(out):
    return open_output(str(out)).runs()


def ids(out):
    return sorted(pd.read_parquet(out)["id"]) if list(Path(out).glob("*.parquet")) else []


def test_placeholders_in_paths():
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
        (["run=../../etc"], "'run'"),
        (["run=a/b"], "'run'"),
        (["date=yesterday"], "'date'"),
        (["date=2026-02-30"], "'date'"),
        (["output.path=out/{date-1}", "date=0001-01-01"], "no day"),
    ],
)
def test_wrong_placeholders_are_refused(changes, says):
    with pytest.raises(JobError) as error:
        Job.build({"input": {"path": "in"}, "output": {"path": "out/{run}"}}, changes=changes)
    assert says in str(error.value)


def test_nights(tmp_path, tiny_model):
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
    faults = {"PYTHONPATH": f"{ROOT / 'tests' / 'faults'}:{ROOT}", "FAULT_SLEEP": "0.3"}
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


def test_an_output_for_each_date_and_backfill(tmp_path, tiny_model):
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


class TestLease:
    def hold(self, out, run_id, on_busy="fail"):
        other = lease.Lease(open_output(str(out)), run_id, on_busy)
        other.take()
        return other

    def job(self, tiny_model, corpus, out, **keys):
        return make_job(tiny_model, corpus, out, **keys)

    def test_a_run_at_work_is_not_joined(self, corpus, tmp_path, tiny_model, quick):
        out = tmp_path / "out"
        other = self.hold(out, "other")
        other.tell({"rows": 7})
        with pytest.raises(JobError, match=rf"run other on .*{os.getpid()}.*on_busy"):
            run(self.job(tiny_model, corpus, out))
        assert not list(out.glob("*.parquet"))
        assert not (out / "_bertbatch" / "job.yaml").exists()
        assert lease.holder(open_output(str(out))).progress == {"rows": 7}
        other.release()
        assert lease.holder(open_output(str(out))) is None

    def test_waits_until_it_ends(self, corpus, tmp_path, tiny_model, quick):
        out = tmp_path / "out"
        other = self.hold(out, "other")
        released = []

        def end():
            released.append(time.monotonic())
            other.release()

        threading.Timer(3, end).start()  # longer than the patience with a dead one
        result = run(self.job(tiny_model, corpus, out, **{"runtime.on_busy": "wait"}))
        assert result.exit_code == 0
        assert released
        assert result.totals["rows_in"] == 600

    def test_one_that_stands_still_is_taken_over_and_gives_way(
        self, corpus, tmp_path, tiny_model, quick, monkeypatch
    ):
        out = tmp_path / "out"
        stopped = lease.Lease(open_output(str(out)), "stopped", "fail")
        monkeypatch.setattr(stopped, "_beat", lambda: None)  # as under SIGSTOP
        stopped.take()
        monkeypatch.undo()
        monkeypatch.setattr(lease, "PATIENCE_SECONDS", 1.0)
        monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
        fresh = lease.Lease(open_output(str(out)), "fresh", "fail")
        began = time.monotonic()
        assert fresh.wait()
        assert time.monotonic() - began >= 1
        fresh.take()
        stopped._beat()  # it wakes
        assert stopped.lost
        stopped.release()
        assert lease.holder(open_output(str(out))).run == "fresh"
        fresh.release()

    def test_a_dead_run_of_another_host_is_taken_over(self, corpus, tmp_path, tiny_model, quick):
        out = tmp_path / "out"
        self.hold(out, "other").release()
        content = {"run": "x", "host": "another", "pid": 1, "born": "1"}
        (out / "_bertbatch" / "lease.json").write_text(json.dumps(content))
        result = run(self.job(tiny_model, corpus, out))
        assert (result.exit_code, result.totals["rows_in"]) == (0, 600)

    def test_waits_for_one_that_began_while_the_model_was_loaded(
        self, corpus, tmp_path, tiny_model, quick, monkeypatch
    ):
        out = tmp_path / "out"
        others = []
        agree = Output.agree

        def meanwhile(output, contract):
            if not others:
                others.append(self.hold(out, "other"))
                threading.Timer(1, others[0].release).start()
            return agree(output, contract)

        monkeypatch.setattr(Output, "agree", meanwhile)
        result = run(self.job(tiny_model, corpus, out, **{"runtime.on_busy": "wait"}))
        assert (result.exit_code, result.totals["rows_in"]) == (0, 600)
        assert others[0]._stop.is_set()

    def test_a_run_that_lost_its_lease_stops(self, corpus, tmp_path, tiny_model, quick):
        out = tmp_path / "out"

        class Thief(Watcher):
            def progressed(self, totals, unit=None):
                if totals.units == 2:
                    path = out / "_bertbatch" / "lease.json"
                    path.write_text(path.read_text().replace('"run": "', '"run": "thief-'))
                    time.sleep(0.5)

        result = run(self.job(tiny_model, corpus, out, **{"runtime.unit_rows": 10}), Thief())
        assert result.exit_code == 3
        assert "another run took over" in result.advice
        assert 0 < result.totals["rows_in"] < 600
        assert lease.holder(open_output(str(out))).run.startswith("thief-")  # not deleted

    def test_a_dead_process_of_this_host_is_not_waited_for(self, corpus, tmp_path, tiny_model):
        out = tmp_path / "out"
        self.hold(out, "other").release()
        gone = subprocess.Popen([sys.executable, "-c", "pass"])
        gone.wait()
        content = {"run": "x", "host": os.uname().nodename, "pid": gone.pid, "born": "1"}
        (out / "_bertbatch" / "lease.json").write_text(json.dumps(content))
        began = time.monotonic()
        assert run(self.job(tiny_model, corpus, out)).exit_code == 0
        assert time.monotonic() - began < 30
        assert not (out / "_bertbatch" / "lease.json").exists()

    def test_side_by_side_when_asked(self, corpus, tmp_path, tiny_model, quick):
        out = tmp_path / "out"
        other = self.hold(out, "other")
        result = run(self.job(tiny_model, corpus, out, **{"runtime.on_busy": "share"}))
        assert result.exit_code == 0
        assert lease.holder(open_output(str(out))).run == "other"
        other.release()

    def test_nothing_depends_on_it(self, corpus, tmp_path, tiny_model, caplog):
        out = tmp_path / "out"
        (out / "_bertbatch" / "lease.json" / "a folder").mkdir(parents=True)
        with caplog.at_level("WARNING", "bertbatch"):
            result = run(self.job(tiny_model, corpus, out))
        assert (result.exit_code, result.totals["rows_in"]) == (0, 600)
        assert "no lease on this output" in caplog.text


class TestAlarms:
    def test_a_label_that_moves(self, tmp_path, tiny_model):
        folder, out = tmp_path / "in", tmp_path / "out"
        texts = sorted(set(make_texts(900)))
        write_parquet(folder / "day1.parquet", texts[:300])

        def night(day, limit):
            job = make_job(tiny_model, folder, out, **{"alarms.label_share": limit})
            return run(job.model_copy(update={"date": job.date + timedelta(days=day)}))

        first = night(1, 0.1)  # no run before: nothing to compare with
        assert (first.exit_code, list(first.alarms)) == (0, [])
        scored = run(make_job(tiny_model, folder, tmp_path / "all")).to_pandas()
        share = (scored["label"] == "positive").mean()
        assert 0.05 < share < 0.95
        write_parquet(tmp_path / "more" / "x.parquet", texts[300:])
        more = run(make_job(tiny_model, tmp_path / "more", tmp_path / "more-out")).to_pandas()
        frame = pd.read_parquet(tmp_path / "more" / "x.parquet")["text"]
        positive = list(frame[(more["label"] == "positive").to_numpy()])
        few = [t for t in positive for _ in range(3)][:150]
        write_parquet(folder / "day2.parquet", few)
        second = night(2, 0.02)
        assert second.exit_code == 4
        assert len(second.alarms) == 2
        assert f"positive moved from {share:.1%} of the rows to 100.0%" in second.alarms
        assert (out / "_SUCCESS.json").exists()
        assert records(out)[-1]["alarms"] == second.alarms
        again = night(2, 0.02)  # nothing new: the same night's alarms stand
        assert (again.exit_code, again.alarms) == (4, second.alarms)
        assert night(3, 0.02).exit_code == 0

    def test_a_night_in_two_tries(self, tmp_path, tiny_model):
        """The second try judges the whole night, and not beside the first."""
        folder, out = tmp_path / "in", tmp_path / "out"
        texts = make_texts(400)

        def night(day):
            job = make_job(tiny_model, folder, out, **{"alarms.label_share": 0.02})
            return run(job.model_copy(update={"date": job.date + timedelta(days=day)}))

        write_parquet(folder / "day0.parquet", texts[:200])
        assert night(0).exit_code == 0
        write_parquet(folder / "day1-a.parquet", [texts[3]] * 150)
        assert night(1).exit_code == 4
        write_parquet(folder / "day1-b.parquet", [texts[3]] * 150)
        again = night(1)  # beside itself nothing would have moved
        assert again.exit_code == 4
        assert any("from" in alarm and "100.0%" in alarm for alarm in again.alarms)

    def test_another_output_that_cannot_be_understood(self, tmp_path, tiny_model, corpus):
        keys = {"alarms.label_share": 0.1, "alarms.against": "nowhere://x"}
        with pytest.raises(JobError):
            run(make_job(tiny_model, corpus, tmp_path / "out", **keys))
        assert not (tmp_path / "out").exists()

    def test_against_another_output(self, tmp_path, tiny_model):
        texts = make_texts(400)
        for i, day in enumerate(("2026-11-20", "2026-11-21")):
            rows = [texts[3]] * 150 if i else texts[:150]
            write_parquet(tmp_path / "in" / day / "x.parquet", rows)
        job = {
            "input": {"path": f"{tmp_path}/in/{{date}}"},
            "output": {"path": f"{tmp_path}/out/{{date}}"},
            "model": {"name": tiny_model},
            "alarms": {"label_share": 0.02, "against": f"{tmp_path}/out/{{date-1}}"},
            "runtime": {"runner": "inline"},
        }
        assert run(Job.build(job, changes=["date=2026-11-20"])).exit_code == 0
        assert run(Job.build(job, changes=["date=2026-11-21"])).exit_code == 4

    def test_quarantine(self, tmp_path, tiny_model):
        path, out = tmp_path / "in.parquet", tmp_path / "out"
        write_parquet(path, [*make_texts(97), None, None, None])
        limits = {"limits.max_quarantined": 0.5}
        right = run(make_job(tiny_model, path, out, **limits, **{"alarms.quarantined": 0.03}))
        assert right.exit_code == 0
        wrong = run(
            make_job(tiny_model, path, tmp_path / "o2", **limits, **{"alarms.quarantined": 0.02})
        )
        assert wrong.exit_code == 4
        assert list(wrong.alarms) == ["3.0% of the rows went to quarantine, more than 0.02"]

    def test_empty_input(self, tmp_path, tiny_model, corpus):
        for path in (tmp_path / "nothing", f"{corpus}/*.csv"):
            with pytest.raises(Alarm):
                run(make_job(tiny_model, path, tmp_path / "o", **{"alarms.empty_input": True}))
            with pytest.raises(JobError):
                run(make_job(tiny_model, path, tmp_path / "o"))
        write_parquet(tmp_path / "empty.parquet", [])
        empty = tmp_path / "empty.parquet"
        assert run(make_job(tiny_model, empty, tmp_path / "o")).exit_code == 0
        job = make_job(tiny_model, empty, tmp_path / "o", **{"alarms.empty_input": True})
        assert run(job).exit_code == 4
        job_file = tmp_path / "job.yaml"
        data = {
            "input": {"path": f"{tmp_path}/in/{{date}}"},
            "output": {"path": str(tmp_path / "o2")},
            "model": {"name": tiny_model},
            "alarms": {"empty_input": True},
        }
        job_file.write_text(yaml.safe_dump(data))
        shown = CliRunner().invoke(app, ["run", str(job_file), "--date", "2026-11-24"])
        assert shown.exit_code == 4
        assert "alarm: input.path" in shown.stderr

    def test_nothing_new(self, tmp_path, tiny_model, corpus):
        job = make_job(tiny_model, corpus, tmp_path / "o", **{"alarms.nothing_new": True})
        assert run(job).exit_code == 0
        assert run(job).exit_code == 4


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
