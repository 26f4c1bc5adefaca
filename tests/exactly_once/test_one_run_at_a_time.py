"""One run at a time on an output, unless asked; and nothing depends on it."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from bertbatch import JobError, run
from bertbatch.output import lease
from bertbatch.output.folder import Output, open_output
from bertbatch.runtime.executors.start import Starting
from bertbatch.runtime.result import ProgressListener
from tests.helpers.jobs import make_job
from tests.helpers.outputs import sound


@pytest.fixture
def quick(monkeypatch):
    """A lease that beats and is given up within a second."""
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(lease, "LEASE_TTL_SECONDS", 1.5)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)


def hold(out, run_id, on_busy="fail"):
    other = lease.Lease(open_output(str(out)), run_id, on_busy)
    other.take()
    return other


def test_a_second_run_is_refused(corpus, tmp_path, tiny_model, quick):
    out = tmp_path / "out"
    other = hold(out, "other")
    other.set_progress({"rows": 7})
    with pytest.raises(JobError, match=rf"run other on .*{os.getpid()}.*on_busy"):
        run(make_job(tiny_model, corpus, out))
    assert not list(out.glob("*.parquet"))
    assert not (out / "_bertbatch" / "job.yaml").exists()
    assert lease.holder(open_output(str(out))).progress == {"rows": 7}
    other.release()
    assert lease.holder(open_output(str(out))) is None


def test_a_run_can_wait_until_the_other_ends(corpus, tmp_path, tiny_model, quick):
    out = tmp_path / "out"
    other = hold(out, "other")
    released = []

    def end():
        released.append(time.monotonic())
        other.release()

    threading.Timer(3, end).start()  # longer than the patience with a dead one
    result = run(make_job(tiny_model, corpus, out, **{"runtime.on_busy": "wait"}))
    assert result.exit_code == 0
    assert released
    assert result.totals["rows_in"] == 600


def test_a_lease_that_stands_still_is_taken_over(corpus, tmp_path, tiny_model, quick, monkeypatch):
    out = tmp_path / "out"
    stopped = lease.Lease(open_output(str(out)), "stopped", "fail")
    monkeypatch.setattr(stopped, "_beat", lambda: None)  # as under SIGSTOP
    stopped.take()
    monkeypatch.undo()
    monkeypatch.setattr(lease, "LEASE_TTL_SECONDS", 1.0)
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.1)
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


def test_a_dead_run_of_another_host_is_taken_over(corpus, tmp_path, tiny_model, quick):
    out = tmp_path / "out"
    hold(out, "other").release()
    content = {"run": "x", "host": "another", "pid": 1, "born": "1"}
    (out / "_bertbatch" / "lease.json").write_text(json.dumps(content))
    result = run(make_job(tiny_model, corpus, out))
    assert (result.exit_code, result.totals["rows_in"]) == (0, 600)


def test_a_run_waits_for_one_that_began_while_its_model_was_loaded(
    corpus, tmp_path, tiny_model, quick, monkeypatch
):
    out = tmp_path / "out"
    others = []
    write_contract = Output.write_contract

    def meanwhile(output, contract):
        if not others:
            others.append(hold(out, "other"))
            threading.Timer(1, others[0].release).start()
        return write_contract(output, contract)

    monkeypatch.setattr(Output, "write_contract", meanwhile)
    result = run(make_job(tiny_model, corpus, out, **{"runtime.on_busy": "wait"}))
    assert (result.exit_code, result.totals["rows_in"]) == (0, 600)
    assert others[0]._stop.is_set()


def test_a_run_that_lost_its_lease_stops(corpus, tmp_path, tiny_model, quick):
    out = tmp_path / "out"

    class Thief(ProgressListener):
        def progressed(self, totals, unit=None):
            if totals.units == 2:
                path = out / "_bertbatch" / "lease.json"
                path.write_text(path.read_text().replace('"run": "', '"run": "thief-'))
                time.sleep(0.5)

    result = run(make_job(tiny_model, corpus, out, **{"runtime.unit_rows": 10}), Thief())
    assert result.exit_code == 3
    assert "another run took over" in result.advice
    assert 0 < result.totals["rows_in"] < 600
    assert lease.holder(open_output(str(out))).run.startswith("thief-")  # not deleted


def test_a_dead_process_of_this_host_is_not_waited_for(corpus, tmp_path, tiny_model):
    out = tmp_path / "out"
    hold(out, "other").release()
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    content = {"run": "x", "host": os.uname().nodename, "pid": gone.pid, "born": "1"}
    (out / "_bertbatch" / "lease.json").write_text(json.dumps(content))
    began = time.monotonic()
    assert run(make_job(tiny_model, corpus, out)).exit_code == 0
    assert time.monotonic() - began < 30
    assert not (out / "_bertbatch" / "lease.json").exists()


def test_runs_work_side_by_side_when_asked(corpus, tmp_path, tiny_model, quick):
    out = tmp_path / "out"
    other = hold(out, "other")
    result = run(make_job(tiny_model, corpus, out, **{"runtime.on_busy": "share"}))
    assert result.exit_code == 0
    assert lease.holder(open_output(str(out))).run == "other"
    other.release()


def test_a_run_without_a_lease_scores_all_the_same(corpus, tmp_path, tiny_model, caplog):
    out = tmp_path / "out"
    (out / "_bertbatch" / "lease.json" / "a folder").mkdir(parents=True)
    with caplog.at_level("WARNING", "bertbatch"):
        result = run(make_job(tiny_model, corpus, out))
    assert (result.exit_code, result.totals["rows_in"]) == (0, 600)
    assert "no lease on this output" in caplog.text


def test_what_another_run_did_meanwhile_is_not_scored_again(
    tiny_model, corpus, tmp_path, monkeypatch
):
    """Another run begins and ends while this one loads its model."""
    job = make_job(tiny_model, corpus, tmp_path / "out", **{"runtime.unit_rows": 50})
    executor = Starting.executor
    others = []

    def slowly(self, preflight):
        if not others:
            others.append(None)
            others[0] = run(job)
        return executor(self, preflight)

    monkeypatch.setattr(Starting, "executor", slowly)
    result = run(job)
    assert others[0].run.rows == 600
    assert (result.exit_code, result.run.rows, result.run.rows_before) == (0, 0, 600)
    sound(tmp_path / "out", rows_scored=600)
