"""Disks that cannot do everything: without fsync of folders, hard links, or a place to write."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from bertbatch import JobError
from bertbatch.storage import local_disk
from bertbatch.storage.retry import retry
from bertbatch.storage.stores import connect
from tests.helpers import fusermount

NO_LINKS = ("EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EMLINK", "EINVAL", "EACCES")
RACE = """
import os, sys, time
from pathlib import Path
from bertbatch.storage import local_disk
def no_links(*a, **k): raise OSError(1, "Operation not permitted")
if sys.argv[3] == "rename": os.link = no_links
folder, me = Path(sys.argv[1]), sys.argv[2]
while not (folder / "go").exists(): time.sleep(0.001)
for i in range(200):
    try: local_disk.create(folder / str(i), me.encode())
    except FileExistsError: continue
    print(i)
"""


def no_links(monkeypatch, number=errno.EPERM):
    def link(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)


def no_rename(monkeypatch, number=errno.EINVAL):
    def rename(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(local_disk, "_rename_new", rename)


def fsync_of_folders(monkeypatch, number):
    real = os.fsync

    def fsync(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(number, os.strerror(number))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EBADF", "EISDIR"])
def test_a_folder_that_cannot_be_synced_is_no_failure(name, score, tmp_path, corpus, monkeypatch):
    fsync_of_folders(monkeypatch, getattr(errno, name))
    result = score(corpus, tmp_path / "out", **{"input.limit": 5})
    assert result.exit_code == 0
    assert len(result.to_pandas()) == 5


@pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EDQUOT"])
def test_a_folder_that_fails_to_sync_is_a_failure(name, tmp_path, monkeypatch):
    fsync_of_folders(monkeypatch, getattr(errno, name))
    with pytest.raises(OSError, match=os.strerror(getattr(errno, name))):
        local_disk.create(tmp_path / "a", b"x")


@pytest.mark.parametrize("name", NO_LINKS)
def test_without_links_a_rename_does_not_replace(name, tmp_path, monkeypatch):
    no_links(monkeypatch, getattr(errno, name))
    store, folder = connect(str(tmp_path))
    store.create(f"{folder}/a", b"first")
    with pytest.raises(FileExistsError):
        store.create(f"{folder}/a", b"second")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"first"


def test_renameat2_is_called_by_its_number_alone(tmp_path, monkeypatch):
    class Old:  # a C library from before the call
        def __init__(self, library):
            self.syscall = library.syscall

    real = local_disk.ctypes.CDLL
    monkeypatch.setattr(local_disk.ctypes, "CDLL", lambda *a, **k: Old(real(*a, **k)))
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    with pytest.raises(FileExistsError):
        local_disk._rename_new(tmp_path / "a", tmp_path / "b")
    local_disk._rename_new(tmp_path / "a", tmp_path / "c")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"b": b"b", "c": b"a"}


@pytest.mark.parametrize("by", ["link", "rename"])
def test_of_many_threads_one_creates_a_name(by, tmp_path, monkeypatch):
    if by == "rename":
        no_links(monkeypatch)
    barrier = Barrier(16)

    def write(number):
        barrier.wait()
        won = []
        for i in range(20):
            try:
                local_disk.create(tmp_path / str(i), str(number).encode())
            except FileExistsError:
                continue
            won.append(i)
        return won

    with ThreadPoolExecutor(16) as pool:
        winners = list(pool.map(write, range(16)))
    assert sorted(i for won in winners for i in won) == list(range(20))
    for number, won in enumerate(winners):
        assert all((tmp_path / str(i)).read_bytes() == str(number).encode() for i in won)


@pytest.mark.parametrize("by", ["link", "rename"])
def test_of_two_processes_one_creates_a_name(by, tmp_path):
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([*command, name, by], **pipes) for name in "ab"]
    time.sleep(0.5)
    (tmp_path / "go").touch()
    won = [p.communicate(timeout=60)[0].split() for p in both]
    assert sorted(map(int, won[0] + won[1])) == list(range(200))
    for name, names in zip("ab", won, strict=True):
        assert all((tmp_path / i).read_text() == name for i in names)


@pytest.mark.parametrize("name", ["EINVAL", "ENOSYS", "ENOTSUP"])
def test_without_either_a_run_is_refused_before_its_model_is_loaded(
    name, score, corpus, tmp_path, monkeypatch
):
    no_links(monkeypatch)
    no_rename(monkeypatch, getattr(errno, name))
    monkeypatch.setattr(
        "bertbatch.runtime.executors.start.Starting.executor",
        lambda *_: pytest.fail("a model was loaded"),
    )
    (tmp_path / "out").mkdir()
    with pytest.raises(JobError, match=r"cannot be written.*the store's own URL instead \(s3://"):
        score(corpus, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    tries = []
    with pytest.raises(local_disk.NoCreate):  # trying again changes nothing
        retry(lambda: tries.append(1) or local_disk.create(tmp_path / "a", b"x"))
    assert tries == [1]


def test_a_full_disk_is_no_lack_of_links(tmp_path, monkeypatch):
    no_links(monkeypatch, errno.ENOSPC)
    no_rename(monkeypatch)
    with pytest.raises(OSError, match="No space left") as caught:
        local_disk.create(tmp_path / "a", b"x")
    assert not isinstance(caught.value, local_disk.NoCreate)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("link", ["to a folder", "to nothing yet", "to nothing, deep", "to a link"])
def test_an_output_may_be_a_link(link, score, corpus, tmp_path):
    target = tmp_path / ("new/deep/later" if link.endswith("deep") else "later")
    if link == "to a folder":
        target.mkdir()
    out = tmp_path / "link"
    out.symlink_to(target)
    if link == "to a link":
        out = tmp_path / "second"
        out.symlink_to("link")
    assert score(corpus, out, **{"input.limit": 5}).exit_code == 0
    assert len(list(target.glob("*.parquet"))) == 1
    assert score(corpus, out, **{"input.limit": 5}).run.units == 0
    assert out.is_symlink()


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("loop", "[Ss]ymbolic link"),
        ("loop/out", "[Ss]ymbolic link"),
        ("file", "is a file"),
        ("file/out", "is a file, or below one"),
        ("to-file", "is a file"),
        ("to-file/out/deep", "is a file, or below one"),
        ("below-file", "is a file, or below one"),
        ("n" * 300, "too long"),
        ("/proc/none/out", "cannot be written"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_anything(
    out, why, score, corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "bertbatch.runtime.executors.start.Starting.executor",
        lambda *_: pytest.fail("a model was loaded"),
    )
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "to-file").symlink_to("file")
    (tmp_path / "below-file").symlink_to("file/out")
    with pytest.raises(JobError, match=why) as caught:
        score(corpus, tmp_path / out)
    assert str(caught.value).startswith("output.path ")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_refused(score, corpus, tmp_path):
    (tmp_path / "shut").mkdir(mode=0o500)
    with pytest.raises(JobError, match="cannot be written"):
        score(corpus, tmp_path / "shut" / "out")


@pytest.fixture
def mounted(tmp_path):
    """A folder that is a mounted store, by rclone."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse here")
    path = os.environ["PATH"]
    if shutil.which("fusermount3") is None:
        if os.getuid():
            pytest.skip("no fusermount3 here")
        (tmp_path / "bin").mkdir()
        ours = tmp_path / "bin" / "fusermount3"
        code = Path(fusermount.__file__).read_text()
        ours.write_text(f"#!{sys.executable}\n{code}")
        ours.chmod(0o755)
        path = f"{ours.parent}:{path}"
    there, store = tmp_path / "mounted", tmp_path / "store"
    there.mkdir()
    store.mkdir()
    rclone = str(Path(sys.executable).parent / "rclone")
    process = subprocess.Popen(
        [rclone, "mount", "--config", "", "--vfs-cache-mode", "writes", f":local:{store}", there],
        stderr=subprocess.PIPE,
        env={**os.environ, "PATH": path},
        text=True,
    )
    deadline = time.monotonic() + 20
    while not os.path.ismount(there):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.skip(f"rclone cannot mount here: {process.communicate()[1].strip()}")
        time.sleep(0.05)
    yield there
    process.terminate()
    process.communicate(timeout=20)


def test_a_store_mounted_as_a_folder_is_refused_with_the_way_out(mounted, score, corpus, tmp_path):
    """It is readable as an input, and no output: nothing there tells of two writers."""
    shutil.copytree(corpus, mounted / "in")
    result = score(mounted / "in", tmp_path / "out", **{"input.limit": 5})
    assert result.totals["rows_in"] == 5
    with pytest.raises(JobError, match=r"mounted as a folder, name the store's own URL"):
        score(corpus, mounted / "out")
    assert [path.name for path in mounted.iterdir()] == ["in"]
