"""Storage: a file is created once and whole or not at all; paths, protocols and secrets."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from fsspec.registry import _registry

from bertbatch.errors import JobError
from bertbatch.inputs.paths import find
from bertbatch.storage.retry import is_permanent
from bertbatch.storage.stores import Store, connect
from tests.helpers.racing_writers import race


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, str]:
    """A store and an empty folder on it."""
    if request.param == "memory":
        return connect(f"memory://{uuid.uuid4().hex}")
    return connect(str(tmp_path))


@pytest.mark.parametrize("round", range(5))
def test_of_racing_writers_one_wins(place, round):
    store, folder = place
    (winner,) = race(store, f"{folder}/new/part.parquet")
    assert store.read(f"{folder}/new/part.parquet") == winner
    assert store.names(f"{folder}/new") == ["part.parquet"]
    if store.is_local:
        assert [p.name for p in Path(folder, "new").iterdir()] == ["part.parquet"]


def test_create_replace_and_delete_do_as_they_say(place):
    store, folder = place
    path = f"{folder}/a/b"
    store.create(path, b"one")
    with pytest.raises(FileExistsError):
        store.create(path, b"two")
    assert store.read(path) == b"one"
    store.replace(path, b"three")
    assert store.read(path) == b"three"
    assert store.read(path, 1, 3) == b"hr"
    with store.open(path) as file:
        assert file.read() == b"three"
    assert store.info(path).size == 5
    store.delete(path)
    store.delete(path)
    with pytest.raises(FileNotFoundError):
        store.read(path)
    with pytest.raises(FileNotFoundError):
        store.open(path)
    assert store.names(f"{folder}/nowhere") == []


DIES = """
import os, sys
from bertbatch.storage.stores import connect
if sys.argv[2] == "before":
    os.link = lambda *paths: os._exit(9)
else:
    os.unlink = lambda *paths: os._exit(9)
store, folder = connect(sys.argv[1])
store.create(folder + "/00000000.parquet", b"x" * 1000)
"""


@pytest.mark.parametrize(("when", "there"), [("before", []), ("after", ["00000000.parquet"])])
def test_a_process_that_dies_while_creating_leaves_nothing_half(tmp_path, when, there):
    done = subprocess.run([sys.executable, "-c", DIES, str(tmp_path), when], check=False)
    assert done.returncode == 9
    left = [p for p in tmp_path.iterdir() if p.name not in there]
    assert [p.name[0] for p in left] == ["."]
    store, folder = connect(str(tmp_path))
    assert store.names(folder) == there
    assert [Path(f.path).name for f in find(store, f"{folder}/*.parquet").files] == there
    assert all(store.read(f"{folder}/{name}") == b"x" * 1000 for name in there)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    store, folder = connect(str(tmp_path))
    monkeypatch.setattr(os, "fsync", full)
    for write in (store.create, store.replace):
        with pytest.raises(OSError, match="No space"):
            write(f"{folder}/a.parquet", b"x")
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_plain_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    store, folder = connect(str(tmp_path / "file"))
    with pytest.raises(OSError, match="file"):
        store.create(f"{folder}/a", b"x")
    store, folder = connect("/proc")  # not even root can create files there
    with pytest.raises(OSError, match="proc") as caught:
        store.create(f"{folder}/a", b"x")
    assert not isinstance(caught.value, FileExistsError)
    assert is_permanent(PermissionError(13, "Permission denied"))
    assert is_permanent(OSError(30, "Read-only file system"))
    assert not is_permanent(OSError(5, "Input/output error"))


class Refused(Exception):
    """An error as botocore has them: what the store answers is in its response."""

    def __init__(self, status: int, code: str, **headers: str):
        super().__init__(f"An error occurred ({code}) when calling the PutObject operation")
        told = {"HTTPStatusCode": status, "RequestId": "D412-409", "HTTPHeaders": headers}
        self.response = {"Error": {"Code": code}, "ResponseMetadata": told}


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        ([Refused(412, "PreconditionFailed")], FileExistsError),
        ([Refused(412, "Other")], FileExistsError),
        ([Refused(409, "ConditionalRequestConflict"), Refused(412, "Other")], FileExistsError),
        ([Refused(409, "OperationAborted"), None], None),
        # Numbers elsewhere in an answer are no status: the file is not there.
        ([Refused(503, "SlowDown", **{"content-length": "412"})], OSError),
        ([Refused(503, "SlowDown", **{"content-length": "409"})], OSError),
    ],
)
def test_what_a_conditional_put_answers(answers, wanted, monkeypatch):
    class Bucket:
        def pipe_file(self, *_: object, **__: object) -> None:
            answer = answers.pop(0)
            if answer is not None:
                raise OSError(5, "Input/output error") from answer

    monkeypatch.setattr(Store, "fs", Bucket())
    if wanted is None:
        Store("s3").create("bucket/a", b"x")
    else:
        with pytest.raises(wanted) as caught:
            Store("s3").create("bucket/a", b"x")
        assert type(caught.value) is wanted
    assert answers == []


def test_find_takes_a_file_a_folder_or_a_glob(place):
    store, folder = place
    for name in ("a.csv", "b.parquet", "sub/c.parquet", "sub/deep/d.parquet"):
        store.create(f"{folder}/{name}", name.encode())

    def found(path: str) -> list[str]:
        return [info.path.removeprefix(f"{folder}/") for info in find(store, path).files]

    assert found(f"{folder}/a.csv") == ["a.csv"]
    assert found(folder) == ["a.csv", "b.parquet", "sub/c.parquet", "sub/deep/d.parquet"]
    assert found(f"{folder}/*.parquet") == ["b.parquet"]
    assert found(f"{folder}/**/*.parquet") == ["b.parquet", "sub/c.parquet", "sub/deep/d.parquet"]
    assert found(f"{folder}/*.xyz") == []
    with pytest.raises(FileNotFoundError):
        find(store, f"{folder}/nowhere")
    (info,) = find(store, f"{folder}/sub/c.parquet").files
    assert info.size == len("sub/c.parquet")
    assert info.modified
    assert info == store.info(f"{folder}/sub/c.parquet")


def test_a_changed_file_has_another_stamp(place):
    store, folder = place
    store.create(f"{folder}/a", b"one")
    before = store.info(f"{folder}/a")
    assert store.info(f"{folder}/a") == before
    store.replace(f"{folder}/a", b"two")
    assert store.info(f"{folder}/a") != before


def test_protocols_that_cannot_be_reached_are_refused():
    with pytest.raises(JobError, match="xyz://there: "):
        connect("xyz://there")
    with pytest.raises(JobError, match=r"adlfs|abfs"):
        connect("abfs://container/folder")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(JobError, match=r"pip install 'bertbatch\[s3\]'"):
        connect("s3://bucket/folder")


def test_options_take_values_from_the_environment(monkeypatch):
    monkeypatch.setenv("A_SECRET", "hunter2")
    given = {"secret": "${A_SECRET}", "deep": {"token": "x-${A_SECRET}-y"}, "number": 3}
    store, _ = connect("memory://options", given)
    assert store.options == {"secret": "hunter2", "deep": {"token": "x-hunter2-y"}, "number": 3}
    assert given["secret"] == "${A_SECRET}"
    monkeypatch.delenv("A_SECRET")
    with pytest.raises(JobError, match="A_SECRET is not set"):
        connect("memory://options", given)


def test_secrets_are_not_shown():
    store, _ = connect("memory://options", {"secret": "hunter2"})
    for shown in (repr(store), str(store), f"{store}"):
        assert "hunter2" not in shown
        assert "memory" in shown
