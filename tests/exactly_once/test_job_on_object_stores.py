"""The same job on object stores: a real S3 server, and memory:// within one process."""

import gzip
import json
import logging
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import s3fs
import yaml

from bertbatch import JobError
from bertbatch.checks.status import read_status
from bertbatch.checks.verify import verify
from bertbatch.display.status import show_status
from bertbatch.display.verdict import show_verdict
from bertbatch.storage.stores import Store, connect
from tests.helpers.jobs import make_job
from tests.helpers.racing_writers import race
from tests.helpers.seaweed import BUCKET, KEY, SECRET, seaweed

KEYS = {"input.carry": ["id"], "runtime.unit_rows": 180}
LABELS = ["source", "row", "id", "label", "score"]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Storage options of a server that runs until the last test here."""
    with seaweed(tmp_path_factory.mktemp("seaweed")) as options:
        yield options


@pytest.fixture
def place(s3: dict[str, Any]) -> tuple[Store, str, str]:
    """The store, an empty folder on it, and the folder's URL."""
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    return *connect(url, s3), url


@pytest.fixture
def options(s3: dict[str, Any]) -> dict[str, Any]:
    """A job's keys for input and output on the server."""
    return {"input.storage_options": s3, "output.storage_options": s3}


def upload(corpus: Path, store: Store, folder: str) -> None:
    for path in corpus.iterdir():
        store.create(f"{folder}/in/{path.name}", path.read_bytes())


def assert_same_answers(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """The runners' workers have one thread and more: the last bits of a score depend on it."""
    pd.testing.assert_frame_equal(one[LABELS], other[LABELS], rtol=1e-5)
    np.testing.assert_allclose(np.stack(one["scores"]), np.stack(other["scores"]), atol=1e-5)


def test_of_racing_writers_one_wins(place):
    store, folder, _ = place
    path = f"{folder}/part.parquet"
    (winner,) = race(store, path)
    assert store.read(path) == winner
    with pytest.raises(FileExistsError):
        store.create(path, b"late")
    store.replace(path, b"other")
    assert store.read(path) == b"other"
    store.delete(path)
    store.create(path, b"again")
    assert store.names(folder) == ["part.parquet"]


def test_of_racing_large_writers_one_wins(place):
    """Above 100 MB s3fs would upload in pieces, and their completion is not atomic here."""
    store, folder, _ = place
    path = f"{folder}/large.parquet"
    (winner,) = race(store, path, writers=2, size=101 << 20)
    assert store.info(path).size == 101 << 20
    assert store.read(path, 0, 10) == winner[:10]


def test_a_listing_shows_what_another_process_has_just_written(place, s3):
    store, folder, _ = place
    store.create(f"{folder}/a", b"")
    assert store.names(folder) == ["a"]
    another = s3fs.S3FileSystem(**s3, skip_instance_cache=True)
    another.pipe_file(f"{folder}/b", b"")
    assert store.names(folder) == ["a", "b"]


def test_a_model_on_the_store_has_the_same_answers(
    score, corpus, tmp_path, place, s3, tiny_model, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store, folder, url = place
    for path in Path(tiny_model).iterdir():
        store.create(f"{folder}/model/{path.name}", path.read_bytes())
    local = score(corpus, tmp_path / "one", **KEYS).to_pandas()
    there = {"model.name": f"{url}/model", "model.storage_options": s3}
    result = score(corpus, tmp_path / "two", **KEYS, **there)
    assert_same_answers(result.to_pandas(), local)


def test_the_whole_job_has_the_same_answers(score, corpus, tmp_path, place, options, runner):
    store, folder, url = place
    upload(corpus, store, folder)
    local = score(corpus, tmp_path / "out", **KEYS).to_pandas()
    result = score(f"{url}/in", f"{url}/out", runner, **KEYS, **options)
    assert result.exit_code == 0
    assert_same_answers(result.to_pandas(), local)

    # One part goes, only that unit comes again.
    names = [name for name in store.names(f"{folder}/out") if name.endswith(".parquet")]
    before = {name: store.info(f"{folder}/out/{name}").modified for name in names[1:]}
    gone = pq.read_table(store.open(f"{folder}/out/{names[0]}"))
    store.delete(f"{folder}/out/{names[0]}")
    result = score(f"{url}/in/*.parquet", f"{url}/out", runner, **KEYS, **options)
    assert (result.exit_code, result.run.units, result.run.units_before) == (0, 1, len(names) - 1)
    assert pq.read_table(store.open(f"{folder}/out/{names[0]}")).equals(gone)
    assert {n: store.info(f"{folder}/out/{n}").modified for n in before} == before

    # Others read it through the file system alone.
    paths = [f"{folder}/out/{name}" for name in names]
    table = ds.dataset(paths, filesystem=store.fs).to_table()
    assert sorted(table["id"].to_pylist()) == list(range(600))
    whole = ds.dataset(f"{folder}/out", filesystem=store.fs).to_table()
    assert whole.num_rows == 600
    record = json.loads(store.read(f"{folder}/out/_SUCCESS.json"))
    assert (record["rows_in"], record["units"]) == (600, len(names))


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_csv_has_the_same_answers(score, corpus, tmp_path, place, options, suffix):
    store, folder, url = place
    local = tmp_path / "csv"
    local.mkdir()
    for path in corpus.iterdir():
        name = local / f"{path.stem}{suffix}"
        pyarrow.csv.write_csv(pq.read_table(path), name.with_suffix(".tmp"))
        data = name.with_suffix(".tmp").read_bytes()
        name.with_suffix(".tmp").unlink()
        name.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    upload(local, store, folder)
    expected = score(local, tmp_path / "out", **KEYS).to_pandas()
    result = score(f"{url}/in", f"{url}/out", **KEYS, **options)
    assert result.exit_code == 0
    assert_same_answers(result.to_pandas(), expected)


def test_one_side_alone_may_be_on_the_store(score, corpus, tmp_path, place, s3):
    store, folder, url = place
    upload(corpus, store, folder)
    down = score(f"{url}/in", tmp_path / "down", **KEYS, **{"input.storage_options": s3})
    up = score(corpus, f"{url}/up", **KEYS, **{"output.storage_options": s3})
    assert_same_answers(down.to_pandas(), up.to_pandas())


def test_a_changed_object_is_noticed(score, corpus, place, options):
    store, folder, url = place
    upload(corpus, store, folder)
    assert score(f"{url}/in", f"{url}/out", **options).exit_code == 0
    store.replace(f"{folder}/in/part-0.parquet", (corpus / "part-1.parquet").read_bytes())
    with pytest.raises(JobError, match=r"part-0.parquet.* changed"):
        score(f"{url}/in", f"{url}/out", **options)


def test_a_wrong_key_is_reported_before_anything_starts(score, corpus, place, s3, caplog):
    store, folder, url = place
    upload(corpus, store, folder)
    wrong = {**s3, "secret": "another-secret"}
    for keys in (
        {"input.storage_options": wrong, "output.storage_options": s3},
        {"input.storage_options": s3, "output.storage_options": wrong},
    ):
        with pytest.raises(JobError, match=f"s3://{BUCKET}|{folder}") as caught:
            score(f"{url}/in", f"{url}/out", **keys)
        for secret in ("another-secret", SECRET):
            assert secret not in str(caught.value) + caplog.text
    assert store.names(f"{folder}/out") == []


@pytest.mark.parametrize(
    "first", [{}, {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": "wrong"}]
)
def test_a_key_set_after_a_failure_is_used(score, corpus, place, s3, tmp_path, monkeypatch, first):
    """In a notebook, where the process of the failed run goes on."""
    store, folder, url = place
    upload(corpus, store, folder)
    s3fs.S3FileSystem.clear_instance_cache()  # whose keys were right
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3["client_kwargs"]["endpoint_url"])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in first.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(JobError, match=r"input\.path s3://"):
        score(f"{url}/in", tmp_path / "out")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    score(f"{url}/in", tmp_path / "out")


def test_a_missing_bucket_and_a_missing_folder_are_reported(score, place, options):
    _, _, url = place
    for path in (f"{url}/nowhere", f"{url}/*.parquet", "s3://nobucket/in"):
        with pytest.raises(JobError, match=r"input.path s3://"):
            score(path, f"{url}/out", **options)


def test_secrets_go_nowhere(
    score, corpus, tmp_path, place, s3, options, caplog, capfd, monkeypatch
):
    store, folder, url = place
    caplog.set_level(logging.DEBUG, logger="bertbatch")
    upload(corpus, store, folder)
    store.replace(f"{folder}/in/part-1.parquet", b"not Parquet")
    monkeypatch.setenv("STORE_SECRET", SECRET)
    options["output.storage_options"] = {**s3, "secret": "${STORE_SECRET}"}
    result = score(f"{url}/in", f"{url}/out", **KEYS, **options)
    assert result.exit_code == 3
    job = make_job("sentiment-mini", f"{url}/in", f"{url}/other", **options)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job.model_dump(exclude={"attention"})))
    words = [sys.executable, "-m", "bertbatch", "plan", tmp_path / "job.yaml"]
    assert subprocess.run(words, check=False).returncode == 3
    show_status(read_status(result.output, 3))
    show_verdict(verify(result.output))
    shown = capfd.readouterr()
    for what in ("sources", "failed", "planned units"):  # of plan, status and verify
        assert what in shown.out
    texts = [repr(result), caplog.text, shown.out, shown.err]
    files = [store.info(name) for name in store.fs.find(f"{folder}/out")]
    assert len(files) >= 5
    for info in files:
        texts.append(store.read(info.path).decode("latin-1"))
        if info.path.endswith(".gz"):
            texts.append(gzip.decompress(store.read(info.path)).decode())
    for text in texts:
        assert SECRET not in text
        assert KEY not in text


def test_memory_has_the_same_answers(score, corpus, tmp_path):
    url = f"memory://{uuid.uuid4().hex}"
    store, folder = connect(url)
    upload(corpus, store, folder)
    local = score(corpus, tmp_path / "out", **KEYS).to_pandas()
    result = score(f"{url}/in", f"{url}/out", **KEYS)
    assert result.exit_code == 0
    assert_same_answers(result.to_pandas(), local)
    assert score(f"{url}/in/*.parquet", f"{url}/out", **KEYS).run.units == 0


def test_memory_output_is_refused_with_ray(score, corpus):
    with pytest.raises(JobError, match="inline"):
        score(corpus, "memory://out", "ray")


def test_memory_input_is_refused_with_ray(score, corpus, tmp_path, ray_here):
    store, folder = connect(f"memory://{uuid.uuid4().hex}")
    upload(corpus, store, folder)
    with pytest.raises(JobError, match="inline"):
        score(f"memory:/{folder}/in", tmp_path / "out", "ray")
    assert not (tmp_path / "out").exists()
