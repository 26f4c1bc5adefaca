"""Faults at every step that touches the storage: die before or after it, errors, lost replies, no
room. Afterwards the same command ends in the same answers, and `verify` finds nothing wrong."""

import errno
import itertools
import json
import shutil
import subprocess

import pandas as pd
import pytest

from bertbatch import load_attention, run
from bertbatch.checks.verify import verify
from bertbatch.output.folder import Output, open_output
from tests.helpers.command_line import finish, start, wait_for_parts
from tests.helpers.jobs import make_job
from tests.helpers.outputs import answers, same_answers, sound
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts

STEPS = [
    ("create", "_bertbatch/job.yaml"),
    ("create", "_bertbatch/lease.json"),
    ("delete", "_SUCCESS.json"),
    ("create", "_bertbatch/plan/"),
    ("create", "_bertbatch/quarantine/"),
    ("create", "_bertbatch/attention/"),
    ("create", "part-"),
    ("replace", "_SUCCESS.json"),
    ("create", "_bertbatch/runs/"),
]
WATCHED = ("--attention", "--set", "attention.statistics=entropy")
OPTIONS = ("--unit-rows", "20", *WATCHED)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_model):
    """A corpus with rows that go to quarantine, and what an undisturbed run makes of it."""
    folder = tmp_path_factory.mktemp("whole")
    texts = [*make_texts(40), None, *make_texts(59, 1)]
    write_parquet(folder / "in" / "a.parquet", texts[:60], row_group_size=20)
    write_parquet(folder / "in" / "b.parquet", texts[60:], 60, row_group_size=20)
    keys = {"input.carry": ["id"], "attention.statistics": "entropy", "runtime.unit_rows": 20}
    assert run(make_job(tiny_model, folder / "in", folder / "out", **keys)).exit_code == 0
    return folder


def fault(tmp_path, op, path, what, times=1):
    plan = {"op": op, "path": path, "what": what, "times": times, "once": str(tmp_path / "struck")}
    return {"FAULT_STORE": json.dumps(plan)}


def struck(tmp_path):
    path = tmp_path / "struck"
    return len(path.read_text().splitlines()) if path.exists() else 0


def as_if_nothing_had_been(whole, out):
    """The same rows, answers, quarantine and statistics as without the fault."""
    same_answers(answers(out), answers(whole / "out"))
    sound(out, rows_planned=100, rows_scored=99, rows_quarantined=1)
    got, expected = (load_attention(str(path)) for path in (out, whole / "out"))
    pd.testing.assert_frame_equal(got, expected, rtol=1e-5)
    assert (out / "_SUCCESS.json").exists()
    output = open_output(str(out))
    verify(output, clean=True)
    assert verify(output).orphans == []


def disturbed(model, whole, tmp_path, *fault_, runner=("--runner", "inline"), times=1):
    """The exit code and the words of a run with a fault."""
    injected = fault(tmp_path, *fault_, times=times)
    return finish(start(model, whole / "in", tmp_path / "out", *runner, *OPTIONS, **injected))


def try_again(model, whole, out, *options, code=0):
    got, said = finish(start(model, whole / "in", out, "--runner", "inline", *OPTIONS, *options))
    assert got == code, said
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(
    "what", [pytest.param("die before", marks=pytest.mark.faults), "die after"]
)
@pytest.mark.parametrize(
    ("op", "path"),
    [
        pytest.param(*step, marks=[] if step[1] == "part-" else [pytest.mark.faults])
        for step in STEPS
    ],
)
def test_a_driver_that_dies_at_any_step_loses_nothing(op, path, what, whole, tmp_path, tiny_model):
    out = tmp_path / "out"
    code, said = disturbed(tiny_model, whole, tmp_path, op, path, what)
    assert code == 9, said
    if out.exists() and (out / "_bertbatch" / "job.yaml").exists():
        sound(out)
    try_again(tiny_model, whole, out)
    as_if_nothing_had_been(whole, out)


@pytest.mark.faults
@pytest.mark.parametrize("what", ["die before", "die after"])
@pytest.mark.parametrize("path", ["_bertbatch/quarantine/", "_bertbatch/attention/", "part-"])
def test_a_process_that_dies_in_a_commit_loses_nothing(path, what, whole, tmp_path, tiny_model):
    """On Ray the run goes on: the commit is tried again in another process."""
    out = tmp_path / "out"
    code, said = disturbed(
        tiny_model, whole, tmp_path, "create", path, what, runner=("--runner", "ray")
    )
    assert code == 0, said
    assert struck(tmp_path) == 1
    as_if_nothing_had_been(whole, out)


@pytest.mark.faults
@pytest.mark.parametrize("what", ["fail", "lost"])
@pytest.mark.parametrize(("op", "path"), STEPS)
def test_storage_that_fails_once_loses_nothing(op, path, what, whole, tmp_path, tiny_model):
    out = tmp_path / "out"
    code, said = disturbed(tiny_model, whole, tmp_path, op, path, what)
    assert struck(tmp_path) == 1
    assert "Traceback" not in said, said
    assert code in (0, 2, 3), said
    if code == 0:
        sound(out, rows_scored=99)
    try_again(tiny_model, whole, out)
    as_if_nothing_had_been(whole, out)


def test_storage_that_stays_away_ends_the_run(whole, tmp_path, tiny_model):
    """No part can be written any more: the run ends, says so, and loses nothing."""
    out = tmp_path / "out"
    always = ("create", "part-b", "fail")
    code, said = disturbed(tiny_model, whole, tmp_path, *always, times=1_000_000)
    assert code == 3, said
    assert "the storage failed" in said
    assert "Traceback" not in said
    assert not (out / "_SUCCESS.json").exists()
    sound(out, rows_scored=59)
    try_again(tiny_model, whole, out)
    as_if_nothing_had_been(whole, out)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own that can be too small, or read-only."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "none", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount")

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)

    yield disk, remount
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_ends_the_run(whole, tmp_path, tiny_model, small_disk):
    disk, remount = small_disk
    out = disk / "out"
    said = try_again(tiny_model, whole, out, code=3)
    assert "No space left" in said
    sound(out)
    assert not (out / "_SUCCESS.json").exists()
    remount("size=4m")
    try_again(tiny_model, whole, out)
    as_if_nothing_had_been(whole, out)


@pytest.mark.faults
def test_a_disk_that_becomes_read_only_ends_the_run(whole, tmp_path, tiny_model, small_disk):
    disk, remount = small_disk
    remount("size=4m")
    out = disk / "out"
    process = start(
        tiny_model, whole / "in", out, "--runner", "inline", *OPTIONS, FAULT_SLEEP="0.5"
    )
    wait_for_parts(out, 2, process)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code, said = finish(process)
    assert code == 3, said
    assert "Read-only file system" in said
    assert "Traceback" not in said
    said = try_again(tiny_model, whole, out, code=2)
    assert "cannot be written" in said
    remount("rw")
    try_again(tiny_model, whole, out)
    as_if_nothing_had_been(whole, out)


def test_a_network_disk_that_hesitates_fails_no_unit(whole, tiny_model, tmp_path, monkeypatch):
    """Each commit of a local output looks for it first; that look may fail for a moment."""
    looks = itertools.count()
    real = Output.is_here

    def is_here(output):
        if next(looks) % 2 == 0:
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(output)

    monkeypatch.setattr(Output, "is_here", is_here)
    keys = {"input.carry": ["id"], "attention.statistics": "entropy", "runtime.unit_rows": 20}
    out = tmp_path / "out"
    assert run(make_job(tiny_model, whole / "in", out, **keys)).exit_code == 0
    assert next(looks) == 10  # two for each unit
    as_if_nothing_had_been(whole, out)
