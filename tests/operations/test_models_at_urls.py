"""A model at a URL is copied to a machine once, and is the same for the whole job."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bertbatch import JobError, run
from bertbatch.job.model import Model
from bertbatch.model import download
from bertbatch.model.locate import locate
from bertbatch.model.spec import check_model
from tests.helpers.embedders import embedder
from tests.helpers.jobs import make_job
from tests.helpers.reference import one_at_a_time
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_model, make_texts

TEXTS = make_texts(40)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bertbatch" / "models"


@pytest.fixture
def there(tmp_path):
    """A model's folder and its URL."""
    folder = tmp_path / "there"
    make_model(folder)
    return folder, f"file://{folder}"


def copies(cache: Path) -> list[Path]:
    return [path for path in cache.glob("*/*") if path.is_dir()]


@pytest.mark.parametrize("runner", ["inline", "ray"])
def test_a_job_scores_with_it(there, tmp_path, cache, runner, caplog):
    caplog.set_level("INFO", "bertbatch")
    folder, url = there
    write_parquet(tmp_path / "in.parquet", TEXTS)
    for _ in range(2):
        result = run(make_job(url, tmp_path / "in.parquet", tmp_path / "out", runner))
        assert result.exit_code == 0
    wanted = one_at_a_time(str(folder), TEXTS)
    np.testing.assert_allclose(np.stack(result.to_pandas()["scores"]), wanted, atol=5e-5)
    assert caplog.text.count("is copied to") == 1
    (copy,) = copies(cache)
    files = {path.name for path in folder.iterdir()} & {path.name for path in copy.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files
    for name in files:
        assert (copy / name).read_bytes() == (folder / name).read_bytes()


def test_processes_that_need_it_at_once_copy_it_once(there, cache):
    _, url = there
    code = (
        "import logging, sys; logging.basicConfig(level='INFO'); "
        "from bertbatch.model.locate import locate; print(locate(sys.argv[1], None)[0])"
    )
    command = [sys.executable, "-c", code, url]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = [process.communicate(timeout=60) for process in started]
    (copy,) = copies(cache)
    assert [out.strip() for out, _ in said] == [str(copy)] * 4
    assert sum("is copied to" in err for _, err in said) == 1


def test_a_copy_that_was_interrupted_is_made_again(there, cache):
    """A process that dies after the first file leaves no copy that another would take."""
    _, url = there
    code = (
        "import os, sys; from bertbatch.model import download; copy = download._copy_file; "
        "download._copy_file = lambda *a: (copy(*a), os.kill(os.getpid(), 9)); "
        "from bertbatch.model.locate import locate; locate(sys.argv[1], None)"
    )
    died = subprocess.run([sys.executable, "-c", code, url], capture_output=True)
    assert died.returncode == -9
    assert all(path.name.startswith(".unfinished-") for path in copies(cache))
    copy, version = locate(url, None)
    assert copy.name == version
    assert (copy / "model.safetensors").is_file()
    assert copies(cache) == [copy]


def test_another_model_there_is_another_version(there):
    folder, url = there
    spec = check_model(Model(name=url))
    shutil.rmtree(folder)
    make_model(folder, num_hidden_layers=1)
    assert locate(url, spec.revision)[1] == spec.revision  # the copy
    now = check_model(Model(name=url))
    assert now.revision != spec.revision
    assert now.weights != spec.weights
    shutil.rmtree(locate(url, spec.revision)[0])
    with pytest.raises(JobError, match=f"it is version {now.revision} now, not {spec.revision}"):
        locate(url, spec.revision)


def test_a_version_that_is_named_needs_no_storage(there, monkeypatch):
    folder, url = there
    _, version = locate(url, None)
    shutil.rmtree(folder)
    monkeypatch.setattr(download.stores, "connect", None)  # whoever asks fails
    assert check_model(Model(name=url, revision=version)).revision == version


def test_a_folder_without_a_model_is_named(there):
    folder, url = there
    (folder / "config.json").unlink()
    with pytest.raises(JobError, match=r"there is no config.json; name the folder of a model"):
        locate(url, None)


def test_a_place_that_cannot_be_written_is_named(there, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(JobError, match=r"cannot be copied to .*file/bertbatch/models"):
        locate(there[1], None)


def test_a_password_in_the_url_is_refused():
    with pytest.raises(JobError, match=r"s3://…@models/x: .*model.storage_options"):
        check_model(Model(name="s3://key:secret@models/x"))


def test_options_are_in_no_record(there, tmp_path):
    """They may be secrets; `${NAME}` is the driver's."""
    _, url = there
    os.environ["MODEL_KEY"] = "hunter2"
    write_parquet(tmp_path / "in.parquet", TEXTS[:5])
    keys = {"model.storage_options": {"auto_mkdir": "${MODEL_KEY}"}}
    try:
        run(make_job(url, tmp_path / "in.parquet", tmp_path / "out", **keys))
    finally:
        del os.environ["MODEL_KEY"]
    stored = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(b"hunter2" in path.read_bytes() for path in stored)


def test_an_embedding_model_is_copied_with_its_layers(tmp_path, cache):
    folder = embedder(tmp_path / "local", layers="dn")
    url = f"file://{folder}"
    write_parquet(tmp_path / "in.parquet", make_texts(20))
    result = run(make_job(url, tmp_path / "in.parquet", tmp_path / "out"))
    assert len(result.to_pandas()["embedding"][0]) == 24
    (copy,) = copies(cache)
    assert (copy / "2_Dense" / "model.safetensors").is_file()


@pytest.mark.parametrize("path", ["../outside", "/etc", "a/b", ".."])
def test_layers_outside_of_the_folder_are_not_copied(tmp_path, cache, path):
    folder = embedder(tmp_path / "local", layers="d")
    modules = json.loads((folder / "modules.json").read_text())
    modules[2]["path"] = path
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(JobError, match=r"modules\.json is not a list of modules: .* is no folder"):
        locate(f"file://{folder}", None)
    assert not copies(cache)
