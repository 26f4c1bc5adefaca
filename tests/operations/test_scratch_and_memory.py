"""Disk and memory of a long run: what Ray writes goes with the run, and nothing grows."""

import os
import shutil
import signal
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from bertbatch.runtime.scratch import RAY, Scratch
from tests.helpers.command_line import finish, start, wait_for_parts
from tests.helpers.outputs import sound
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts


@pytest.fixture
def root():
    folder = tempfile.mkdtemp(dir="/tmp")  # a short path: sockets lie in it
    yield Path(folder)
    shutil.rmtree(folder)


@pytest.mark.faults
def test_a_killed_runs_scratch_goes_with_the_next_run(root, corpus, tmp_path, tiny_model):
    out, faults = tmp_path / "out", {"RAY_TMPDIR": str(root), "FAULT_SLEEP": "0.3"}
    process = start(tiny_model, corpus, out, "--unit-rows", "20", **faults)
    wait_for_parts(out, 2, process)
    (left,) = root.iterdir()
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    finish(process)
    psutil.wait_procs(children, timeout=10)  # Ray's ends a little later
    assert left.exists()
    process = start(tiny_model, corpus, out, "--unit-rows", "20", **faults)
    wait_for_parts(out, 12, process)
    assert not left.exists()
    (own,) = root.iterdir()
    size = sum(path.lstat().st_size for path in own.rglob("*") if path.is_file())
    assert size < 16 << 20  # logs; the job's data are in memory, what is in flight at most
    code, said = finish(process)
    assert code == 0, said
    assert list(root.iterdir()) == []


def test_what_others_put_beside_it_is_left_alone(root):
    """A pipe that nobody writes to, a link, a file, a folder whose run lives."""
    Scratch(RAY, root / "new").close(keep=False)
    mine = root / "mine"
    for name in ("mine", f"{RAY}pipe", f"{RAY}dead"):
        (root / name).mkdir()
    for folder in (mine, root / f"{RAY}dead"):
        (folder / "lock").touch()
        (folder / "kept").touch()
    (root / f"{RAY}link").symlink_to(mine)
    (root / f"{RAY}file").touch()
    os.mkfifo(root / f"{RAY}pipe" / "lock")
    lives = Scratch(RAY, root)
    assert (mine / "kept").exists()
    assert not (root / f"{RAY}dead").exists()
    Scratch(RAY, root).close(keep=False)
    assert Path(lives.path).is_dir()
    lives.close(keep=False)
    assert not Path(lives.path).exists()


@pytest.mark.faults
def test_the_logs_of_a_worker_that_died_stay(root, corpus, tmp_path, tiny_model):
    out, faults = tmp_path / "out", {"RAY_TMPDIR": str(root), "FAULT_SLEEP": "0.3"}
    process = start(tiny_model, corpus, out, "--unit-rows", "20", **faults)
    wait_for_parts(out, 2, process)
    children = psutil.Process(process.pid).children(recursive=True)
    next(c for c in children if any("Scorer" in word for word in c.cmdline())).kill()
    code, said = finish(process)
    assert code == 0, said
    (kept,) = root.iterdir()
    assert f"Ray's logs stay in {kept}" in said
    assert list(kept.glob("session_*/logs/raylet.out"))


def memory(process: psutil.Process) -> dict[str, int]:
    """MiB by kind of process, without what is shared: of readers and commits the largest."""
    found: dict[str, int] = defaultdict(int)
    found["driver"] = process.memory_full_info().uss >> 20
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            title = child.cmdline()[0] if child.cmdline() else ""
            kind = "scorer" if "_Scorer" in title else "task" if title.startswith("ray::") else ""
            if kind and "Agent" not in title:
                found[kind] = max(found[kind], child.memory_full_info().uss >> 20)
    return found


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_memory_is_flat_over_ten_minutes_of_small_units(root, tmp_path, tiny_model):
    """Of units of one row; the driver may keep what it must know of each."""
    seconds = int(os.environ.get("BERTBATCH_SOAK_SECONDS", "600"))
    for i in range(40):  # more than two cores score in that time
        write_parquet(tmp_path / "in" / f"{i:02}.parquet", make_texts(3000, i), 3000 * i)
    out, faults = tmp_path / "out", {"RAY_TMPDIR": str(root), "FAULT_SLEEP": "0.01"}
    began = time.monotonic()
    process = start(tiny_model, tmp_path / "in", out, "--unit-rows", "1", **faults)
    wait_for_parts(out, 1000, process)  # everything is loaded, and has done some work
    first, units = memory(psutil.Process(process.pid)), 1000
    while process.poll() is None and time.monotonic() - began < seconds:
        last, units = memory(psutil.Process(process.pid)), len(list(out.glob("*.parquet")))
        disk = sum(path.lstat().st_size for path in root.rglob("*") if path.is_file())
        time.sleep(5)
    took = time.monotonic() - began
    print(f"{took:.0f} s, {units} units, MiB: {dict(first)} {dict(last)}, disk {disk >> 20}")
    assert took > seconds - 10 or process.poll() == 0  # a faster machine was done before
    assert last["driver"] < first["driver"] + 10 + units * 2 // 1024  # 2 KiB a unit
    assert last["scorer"] < first["scorer"] + 30
    assert last["task"] < first["task"] + 30
    assert disk < 64 << 20
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code in (0, 143), said
    assert list(root.iterdir()) == []
    sound(out)
