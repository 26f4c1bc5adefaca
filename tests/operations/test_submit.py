"""`bertbatch submit` against a real local head: the same answers, messages and exit code."""

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from bertbatch import Job, JobError, run
from bertbatch.output.folder import open_output
from bertbatch.runtime.submit import Submission, check_paths, entrypoint, runtime_env
from tests.helpers.paths import ROOT, WITH_FAULTS

BIN = Path(sys.executable).parent
BERTBATCH = (sys.executable, "-m", "bertbatch")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def head():
    """A head of its own, beside whatever Ray the other tests use."""
    port, dashboard = free_port(), free_port()
    process = subprocess.Popen(
        [
            *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2"),
            *("--disable-usage-stats", f"--port={port}", f"--dashboard-port={dashboard}"),
            "--dashboard-host=127.0.0.1",
            f"--dashboard-agent-listen-port={free_port()}",  # another Ray has the default
            "--object-store-memory=200000000",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # As on a machine whose environment is activated: `python` is this one. Scoring is slowed
        # down, so that there is time to break something.
        env={
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            **{"PYTHONPATH": WITH_FAULTS, "FAULT_SLEEP": "0.2"},
        },
    )
    address = f"http://127.0.0.1:{dashboard}"
    list_jobs = [str(BIN / "ray"), "job", "list", "--address", address]
    deadline = time.monotonic() + 120
    while subprocess.run(list_jobs, capture_output=True).returncode:
        assert time.monotonic() < deadline, "the head does not answer"
    yield address
    process.terminate()
    process.wait(30)


@pytest.fixture
def job(corpus, tmp_path, tiny_model):
    """A job file with absolute paths, its output not begun."""
    path = tmp_path / "nightly.yaml"
    data = {
        "input": {"path": str(corpus), "carry": ["id"]},
        "output": {"path": f"{tmp_path}/out/{{run}}"},
        "model": {"name": tiny_model, "dtype": "float32", "tokens_per_batch": 512},
        "runtime": {"unit_rows": 20},
    }
    path.write_text(yaml.safe_dump(data))
    return path


def submit(head: str, job: Path, *options: str) -> subprocess.CompletedProcess:
    command = [*BERTBATCH, "submit", str(job), "--address", head, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def watch(head: str, job: Path, name: str) -> tuple[Path, subprocess.Popen]:
    """The output of a job, and the process that submits and watches it."""
    command = [*BERTBATCH, "submit", str(job), "--address", head, "--run", name]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # Whoever starts the tests in a script's background has them ignore Ctrl-C.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, text=True, preexec_fn=heed, **pipes)
    return job.parent / "out" / name, process


def driver_of(out: Path) -> psutil.Process:
    """The driver that is at work on an output."""
    words = ["-m", "bertbatch", "run", "job.yaml"]
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if line[1:5] == words and out.name in " ".join(line) and "python" in line[0]:
            return process
    raise AssertionError("no driver")


def wait_for_parts(out: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.parquet"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processor_of(out: Path) -> str:
    """What the record of an output's only run says of its workers, without their threads."""
    (record,) = open_output(str(out)).runs()
    (kind,) = record["chosen"]["kinds"]
    return str(kind).rpartition(", ")[0]


@pytest.mark.cluster
def test_same_job_same_answers_as_here(head, job, tmp_path):
    done = submit(head, job, "--run", "there")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "600 rows in = 600 scored + 0 quarantined" in done.stdout
    assert "units, " in done.stdout  # progress lines
    assert run(Job.load(job, ["run=here", "runtime.runner=inline"])).exit_code == 0
    there, here = (
        pd.read_parquet(tmp_path / "out" / name).sort_values("id", ignore_index=True)
        for name in ("there", "here")
    )
    pd.testing.assert_frame_equal(there, here, rtol=1e-4)  # another number of threads
    kinds = [processor_of(tmp_path / "out" / name) for name in ("there", "here")]
    assert kinds[0] == kinds[1]  # with the same kernels: they are sent along
    refused = submit(head, job, "--run", "there", "--set", "input.text=nothing", "--id", "other")
    assert refused.returncode == 2
    assert "belongs to another job" in refused.stdout
    again = submit(head, job, "--id", "other")
    assert again.returncode == 2
    assert "there is a submission other already" in again.stderr


@pytest.mark.cluster
def test_a_killed_driver_is_submitted_again(head, job):
    out, watching = watch(head, job, "killed")
    wait_for_parts(out, 3)
    driver_of(out).kill()
    stdout, stderr = watching.communicate(timeout=200)
    assert watching.returncode == 0, stdout + stderr
    assert "submitting it again as nightly-killed-retry1" in stderr
    assert sorted(pd.read_parquet(out)["id"]) == list(range(600))
    (record,) = open_output(str(out)).runs()
    assert record["this_run"]["units_before"] >= 3


@pytest.mark.faults
def test_a_job_that_is_stopped_is_not_submitted_again(head, job):
    out, watching = watch(head, job, "stopped")
    wait_for_parts(out, 2)
    ray = [str(BIN / "ray"), "job", "stop", "--address", head, "nightly-stopped"]
    assert subprocess.run(ray, capture_output=True).returncode == 0
    stdout, stderr = watching.communicate(timeout=120)
    assert watching.returncode == 130, stdout + stderr
    assert "again" not in stderr


@pytest.mark.cluster
def test_ctrl_c_leaves_the_job_going(head, job):
    out, watching = watch(head, job, "watched")
    wait_for_parts(out, 1)
    watching.send_signal(signal.SIGINT)
    _, stderr = watching.communicate(timeout=60)
    assert watching.returncode == 130
    assert "nightly-watched keeps running" in stderr
    assert not (out / "_SUCCESS.json").exists()
    wait_for_parts(out, 32)
    deadline = time.monotonic() + 60
    while not (out / "_SUCCESS.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.cluster
def test_rays_own_command_runs_the_entrypoint(head, corpus, tmp_path, tiny_model):
    """jobs/score.py through Ray's own command, as the manifests in cluster/ do."""
    job, out = tmp_path / "job.yaml", tmp_path / "out"
    data = {
        "input": {"path": str(corpus), "carry": ["id"]},
        "output": {"path": str(out)},
        "model": {"name": tiny_model},
    }
    job.write_text(yaml.safe_dump(data))
    command = [str(BIN / "ray"), "job", "submit", "--address", head, "--working-dir"]
    done = subprocess.run(
        [*command, str(ROOT / "jobs"), "--", "python", "score.py", str(job)],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(pd.read_parquet(out)["id"]) == list(range(600))


def test_an_address_where_nothing_answers_is_reported(job):
    done = submit(f"http://127.0.0.1:{free_port()}", job)
    assert done.returncode == 2
    assert "no Ray dashboard answers there" in done.stderr


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("input", "path", "in"), ("output", "path", "out/x"), ("model", "name", "./tests")],
)
def test_relative_paths_are_refused(section, key, value):
    data = {"input": {"path": "/in"}, "output": {"path": "s3://b/out"}, "model": {}}
    check_paths(Job.build(data))
    data[section][key] = value
    with pytest.raises(JobError, match=f"{section}.{key} {value} is relative"):
        check_paths(Job.build(data))


def test_the_job_and_the_package_are_sent(job, tmp_path):
    submission = Submission(job, ["model.labels=[bad, 'good; rm']", "date=2026-11-20"], "http://x")
    loaded = Job.load(job, submission.changes)
    env = runtime_env(submission, loaded, tmp_path)
    assert (tmp_path / "job.yaml").read_text() == job.read_text()
    assert env["py_modules"] == [str(ROOT / "bertbatch")]
    assert "model/packaged/sentiment_mini" in env["excludes"]  # 45 MB that this job does not use
    command = entrypoint(submission, loaded)
    assert f"--date 2026-11-20 --run {loaded.run} " in command  # a retry after midnight, too
    done = subprocess.run(f"printf '%s|' {command}", shell=True, capture_output=True, text=True)
    assert done.stdout.split("|")[-3:] == ["--set", "model.labels=[bad, 'good; rm']", ""]
    own = runtime_env(Submission(job, [], "http://x", package=False), loaded, tmp_path)
    assert set(own) == {"working_dir"}
