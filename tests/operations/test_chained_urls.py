"""URLs that go through an archive or a cache, as fsspec chains them."""

import gzip
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pytest

from bertbatch import JobError
from bertbatch.inputs.listing import list_sources
from tests.helpers.jobs import CARRY, make_job
from tests.helpers.outputs import sound
from tests.helpers.reference import one_at_a_time
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts
from tests.helpers.writers import WRITERS

TEXTS = make_texts(30)


@pytest.fixture
def archive(tmp_path):
    """A zip archive with the same rows in several formats."""
    table = pa.table({"id": range(30), "text": TEXTS})
    write_parquet(tmp_path / "x.parquet", TEXTS)
    for name in ("csv by pandas", "jsonl by polars", "arrow file"):
        WRITERS[name](table, tmp_path)
    plain = "id,text\n" + "".join(f"{i},{text}\n" for i, text in enumerate(TEXTS))
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        for path in tmp_path.glob("x.*"):
            if path.suffix != ".zip":
                zipped.write(path, f"all/{path.name}")
        zipped.writestr("plain/1.csv", plain)
        zipped.writestr("plain/2.csv.gz", gzip.compress(plain.encode()))
    return tmp_path / "x.zip"


@pytest.mark.parametrize("name", ["x.parquet", "x.csv.zst", "x.ndjson", "x.arrow"])
def test_every_format_is_read(archive, name, tmp_path, tiny_model, score) -> None:
    result = score(f"zip://all/{name}::{archive}", tmp_path / "out", **CARRY)
    found = result.to_pandas().astype({"id": int}).sort_values("id")
    wanted = one_at_a_time(tiny_model, TEXTS)
    np.testing.assert_allclose(np.stack(found["scores"]), wanted, atol=5e-5)
    assert set(found["source"]) == {name}


@pytest.mark.parametrize("runner", ["inline", "ray"], indirect=True)
@pytest.mark.parametrize(
    "path", ["zip://plain::{}", "zip://plain/*::file://{}", "zip://plain::simplecache::file://{}"]
)
def test_a_folder_of_an_archive_is_read(archive, path, runner, tmp_path, score) -> None:
    keys = {**CARRY, "runtime.unit_mib": 0.001}
    for _ in range(2):
        result = score(path.format(archive), tmp_path / "out", runner, **keys)
    sound(tmp_path / "out", rows_scored=60, rows_quarantined=0)
    assert sorted(result.to_pandas()["id"].astype(int)) == sorted([*range(30)] * 2)


def test_a_tar_and_a_cache_are_read(archive, tmp_path, score) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "x.parquet", "day=1/x.parquet")
    folder = {**CARRY, "input.carry": ["id", "day"]}
    found = score(f"tar://day=1/x.parquet::{tmp_path}/x.tar", tmp_path / "1", **folder).to_pandas()
    assert sorted(found["id"]) == [*range(30)]
    assert set(found["day"]) == {"1"}
    found = score(f"simplecache::file://{tmp_path}/x.parquet", tmp_path / "2", **CARRY).to_pandas()
    assert sorted(found["id"]) == [*range(30)]


def test_another_file_of_the_same_size_is_another(archive, tmp_path) -> None:
    stamps = set()
    for text in ("good", "evil"):
        with zipfile.ZipFile(tmp_path / f"{text}.zip", "w") as zipped:
            zipped.writestr("x.csv", f"text\n{text}\n")
        job = make_job("m", f"zip://x.csv::{tmp_path}/{text}.zip", tmp_path / "out")
        stamps.add(list_sources(job).sources[0].fingerprint)
    assert len(stamps) == 2


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("zip://no.csv::{}", "no such file or folder"),
        ("zip://*.txt::{}", "no file matches"),
        ("zip://x.csv::{}.gone", "No such file"),
        ("zip://plain::{}/../x.parquet", "No such file|Not a directory"),
        ("zip://plain::{parent}/x.parquet", "not a zip file"),
    ],
)
def test_what_is_not_there_is_named(archive, path, said, tmp_path) -> None:
    with pytest.raises(JobError, match=said) as caught:
        list_sources(make_job("m", path.format(archive, parent=tmp_path), tmp_path / "out"))
    assert "zip://" in str(caught.value)
    assert "\n" not in str(caught.value)
