"""Object stores at their worst: answers that fail or get lost, and one that ignores conditions."""

import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import s3fs

from bertbatch import RunError, run
from bertbatch.checks.verify import verify
from bertbatch.errors import JobError
from bertbatch.output.folder import open_output
from tests.helpers.jobs import make_job
from tests.helpers.proxy import KINDS, failing
from tests.helpers.seaweed import BUCKET, free_ports, seaweed


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with seaweed(tmp_path_factory.mktemp("seaweed")) as options:
        yield options


def put(corpus, options, folder):
    fs = s3fs.S3FileSystem(**options, skip_instance_cache=True)
    for path in corpus.iterdir():
        fs.pipe_file(f"{folder}/{path.name}", path.read_bytes())


def job(model, options, url, corpus_url, **keys):
    stores = {"input.storage_options": options, "output.storage_options": options}
    fixed = {"input.carry": ["id"], "runtime.unit_rows": 40}
    return make_job(model, corpus_url, url, **stores, **fixed, **keys)


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.faults) for seed in range(1, 6))]
)
def test_requests_that_fail_or_get_lost_cost_no_row(seed, s3, corpus, tiny_model):
    """One in eight requests goes wrong; runs may give up, and end in the same rows all the same."""
    folder = f"{BUCKET}/{uuid.uuid4().hex}"
    put(corpus, s3, f"{folder}/in")
    endpoint = s3["client_kwargs"]["endpoint_url"]
    with failing(endpoint, 1 / 8, seed) as (url, done):
        through = {
            **s3,
            "client_kwargs": {"endpoint_url": url},
            "config_kwargs": {"read_timeout": 1.5, "retries": {"max_attempts": 1}},
        }
        for _ in range(12):
            try:
                result = run(job(tiny_model, through, f"s3://{folder}/out", f"s3://{folder}/in"))
            except (JobError, RunError):
                continue
            if result.exit_code == 0:
                break
        else:
            pytest.fail("twelve runs, and none came through")
    assert sum(done[kind] for kind in KINDS) >= 3, done
    verdict = verify(open_output(f"s3://{folder}/out", s3))
    assert verdict.problems == []
    # Without the proxy, which is gone: what is left, if anything is.
    result = run(job(tiny_model, s3, f"s3://{folder}/out", f"s3://{folder}/in"))
    assert result.exit_code == 0
    verdict = verify(open_output(f"s3://{folder}/out", s3))
    assert verdict.problems == []
    assert (verdict.rows_planned, verdict.rows_scored) == (600, 600)
    assert sorted(result.to_pandas()["id"]) == list(range(600))


@pytest.fixture
def rclone(tmp_path):
    """rclone's S3 server, which takes If-None-Match and ignores it."""
    program = shutil.which("rclone") or str(Path(sys.executable).with_name("rclone"))
    (port,) = free_ports(1)
    (tmp_path / "served" / "bucket").mkdir(parents=True)
    command = [program, "serve", "s3", f"--addr=127.0.0.1:{port}", "--auth-key=key,secret-of-it"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "served")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "RCLONE_CONFIG": str(tmp_path / "none.conf")},
    )  # fmt: skip
    options = {
        "key": "key",
        "secret": "secret-of-it",
        "client_kwargs": {"endpoint_url": f"http://127.0.0.1:{port}"},
    }
    deadline = time.monotonic() + 30
    while True:
        try:
            s3fs.S3FileSystem(**options, skip_instance_cache=True).ls("bucket")
            break
        except Exception:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    yield options
    process.kill()
    process.wait()


def test_a_store_that_ignores_conditions_is_named(rclone, corpus, tiny_model, caplog):
    put(corpus, rclone, "bucket/in")
    with caplog.at_level("WARNING", "bertbatch"):
        result = run(job(tiny_model, rclone, "s3://bucket/out", "s3://bucket/in"))
    assert result.exit_code == 0
    assert "overwrites a file that exists" in caplog.text
    assert "secret-of-it" not in caplog.text
    verdict = verify(open_output("s3://bucket/out", rclone))
    assert verdict.problems == []
    assert verdict.rows_scored == 600
    assert sorted(result.to_pandas()["id"]) == list(range(600))
    again = run(job(tiny_model, rclone, "s3://bucket/out", "s3://bucket/in"))
    assert (again.exit_code, again.run.rows) == (0, 0)


def test_a_store_that_honours_them_is_not(s3, corpus, tiny_model, caplog):
    folder = f"{BUCKET}/{uuid.uuid4().hex}"
    put(corpus, s3, f"{folder}/in")
    with caplog.at_level("WARNING", "bertbatch"):
        result = run(job(tiny_model, s3, f"s3://{folder}/out", f"s3://{folder}/in"))
    assert result.exit_code == 0
    assert "absent" not in caplog.text
    assert sorted(result.to_pandas()["id"]) == list(range(600))
