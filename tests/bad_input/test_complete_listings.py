"""A path means all of its files: what stands in the way of the list is said, and nothing waits."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from bertbatch import JobError
from bertbatch.inputs.paths import find
from bertbatch.storage.stores import connect
from tests.helpers.listings import ids, listed
from tests.helpers.sources import write_parquet

AS_NOBODY = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []


def two_folders(folder: Path) -> Path:
    for name in ("a", "b"):
        write_parquet(folder / name / "p.parquet", ["x", "y"])
    return folder


@pytest.mark.parametrize("how", ["{}", "{}/*", "{}/*/*.parquet", "{}/**/*.parquet", "{}/b"])
def test_a_folder_that_may_not_be_listed_is_named(how, tmp_path):
    folder = two_folders(tmp_path / "in")
    (folder / "b").chmod(0)
    code = (
        "import sys; from tests.helpers.listings import ids; from bertbatch import JobError\n"
        "try: print(ids(sys.argv[1]))\nexcept JobError as error: print('refused', error)"
    )
    try:
        done = subprocess.run(
            [*AS_NOBODY, sys.executable, "-c", code, how.format(folder)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    finally:
        (folder / "b").chmod(0o755)
    assert done.stdout.startswith("refused")
    assert "Permission denied" in done.stdout
    assert str(folder / "b") in done.stdout


def test_folders_that_no_glob_needs_may_be_shut(tmp_path):
    folder = two_folders(tmp_path / "in")
    (folder / "_b").mkdir(mode=0)
    (folder / "lost+found").mkdir(mode=0)
    (folder / "b").chmod(0)
    try:
        done = subprocess.run(
            [*AS_NOBODY, sys.executable, "-c",
             "import sys, json; from tests.helpers.listings import ids\n"
             "print(json.dumps([ids(path) for path in sys.argv[1:]]))",
             f"{folder}/a*/*.parquet", f"{folder}/a"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    finally:
        (folder / "b").chmod(0o755)
    assert json.loads(done.stdout) == [["a/p.parquet"], ["p.parquet"]]


class ShutFileSystem(LocalFileSystem):
    """A store whose folders named `b` may not be listed, and that relies on fsspec's find."""

    protocol = "shut"
    refusal: type[Exception] = PermissionError

    def ls(self, path: str, detail: bool = False, **options: Any) -> Any:
        if path.endswith("/b"):
            raise self.refusal(f"may not list {path}")
        return super().ls(path, detail=detail, **options)


class AsyncShutFileSystem(AsyncFileSystem):
    """The same for stores that are asynchronous: fsspec's walk does not pass on its `on_error`."""

    protocol = "ashut"
    cachable = False

    async def _ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        return ShutFileSystem().ls(path, detail=detail)

    async def _info(self, path: str, **options: Any) -> Any:
        return ShutFileSystem().info(path)


@pytest.mark.parametrize("error", [PermissionError, OSError, FileNotFoundError, ValueError])
@pytest.mark.parametrize("store", [ShutFileSystem, AsyncShutFileSystem])
@pytest.mark.parametrize("how", ["{}", "{}/*/*.parquet", "{}/**/*.parquet"])
def test_a_store_that_refuses_a_folder_is_no_empty_folder(how, store, error, tmp_path, monkeypatch):
    fsspec.register_implementation(store.protocol, store, clobber=True)
    monkeypatch.setattr(ShutFileSystem, "refusal", error)
    folder = two_folders(tmp_path / "in")
    fs, path = connect(f"{store.protocol}://{how.format(folder)}")
    with pytest.raises(OSError, match=r"may not list .*/b"):
        find(fs, path)
    fs, path = connect(f"{store.protocol}://{folder}/a")
    assert [Path(file.path).name for file in find(fs, path).files] == ["p.parquet"]


@pytest.mark.parametrize("name", ["b.parquet", "b", "b.txt"])
@pytest.mark.parametrize("target", ["nowhere", "."])
def test_a_link_that_leads_to_nothing_is_named(name, target, tmp_path):
    folder = two_folders(tmp_path / "in")
    target = name if target == "." else target  # to itself
    (folder / "a" / name).symlink_to(folder / "a" / target)
    for path in (folder, f"{folder}/*", [str(folder)]):
        with pytest.raises(JobError, match=f"{name} is a link that leads to nothing"):
            listed(path)
    assert ids(f"{folder}/b/*.parquet") == ["p.parquet"]
    with pytest.raises(JobError, match=name):
        listed(folder / "a" / name)


def test_what_is_no_file_is_left_out_with_its_reason(tmp_path):
    folder = two_folders(tmp_path / "in")
    os.mkfifo(folder / "a" / "pipe.parquet")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "b" / "s.csv"))
        for path in (folder, f"{folder}/*/*"):
            found = listed(path)
            assert [s.id for s in found.sources] == ["a/p.parquet", "b/p.parquet"]
            assert found.left_out == {"a pipe, a socket or a device": 2}
    with pytest.raises(JobError, match=r"pipe.parquet is a pipe"):
        listed(folder / "a" / "pipe.parquet")
    with pytest.raises(JobError, match=r"write what comes out of it to a file"):
        listed("/dev/null")


def test_links_that_lead_in_circles_end(tmp_path):
    folder = two_folders(tmp_path / "in")
    (folder / "a" / "self").symlink_to(folder / "a")
    (folder / "a" / "up").symlink_to(folder.parent)
    (folder / "b" / "over").symlink_to("../../other")
    write_parquet(tmp_path / "other" / "q.parquet", ["z"])
    (tmp_path / "other" / "back").symlink_to(folder / "b")
    found = listed(folder)
    assert [s.id for s in found.sources] == ["a/p.parquet", "b/over/q.parquet", "b/p.parquet"]
    assert found.left_out == {"a link to a folder that it is in": 3}


def test_a_file_that_may_not_be_read_fails_alone_and_is_named(tmp_path, tiny_model):
    folder = two_folders(tmp_path / "in")
    (folder / "b" / "p.parquet").chmod(0)
    code = (
        "import sys; from bertbatch import run; from tests.helpers.jobs import make_job\n"
        "r = run(make_job(*sys.argv[1:])); print(r.exit_code, r.failed_sources)"
    )
    done = subprocess.run(
        [*AS_NOBODY, sys.executable, "-c", code, tiny_model, str(folder), str(tmp_path / "out")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("3 {'b/p.parquet'")
    assert "Permission denied" in done.stdout


MARKS = {
    "Delta": ["_delta_log/00000000000000000000.json"],
    "Hudi": [".hoodie/hoodie.properties"],
    "Iceberg": ["metadata/v1.metadata.json", "data/p.parquet"],
}


@pytest.mark.parametrize("kind", MARKS)
@pytest.mark.parametrize("place", ["file", "memory"])
def test_a_table_is_refused_by_name_however_it_is_given(kind, place, tmp_path):
    root = str(tmp_path) if place == "file" else f"memory://{tmp_path.name}"
    store, folder = connect(root)
    table = f"{folder}/in/t"
    for name in ("data/p.parquet", "data/day=1/q.parquet", *MARKS[kind]):
        store.replace(f"{table}/{name}", b"x")
    store.replace(f"{folder}/in/plain/p.parquet", b"x")
    for path in (
        "in", "in/t", "in/t/data", "in/t/data/day=1", "in/t/data/p.parquet", "in/*/data/*",
        "in/t/data/day=*/*.parquet", "in/**/*.parquet", "in/t/*",
    ):  # fmt: skip
        with pytest.raises(JobError, match=f"{table} is an? {kind} table"):
            listed(f"{root}/{path}")
        with pytest.raises(JobError, match=f"{table} is an? {kind} table"):
            listed([f"{root}/in/plain", f"{root}/{path}"])
    assert ids(f"{root}/in/plain") == ids(f"{root}/in/plain/*") == ["p.parquet"]


def test_folders_called_data_and_metadata_are_no_table(tmp_path):
    for name in ("data/p.parquet", "metadata/p.parquet"):
        write_parquet(tmp_path / "in" / name, ["x"])
    (tmp_path / "in" / "metadata" / "notes.json").write_text("{}")
    assert ids(tmp_path / "in") == ["data/p.parquet", "metadata/p.parquet"]
    assert ids(tmp_path / "in" / "data") == ["p.parquet"]
