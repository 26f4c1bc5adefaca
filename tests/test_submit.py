"""The cluster entrypoint: `ray job submit -- python jobs/score.py` against a local head."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parent.parent
RAY = str(Path(sys.executable).parent / "ray")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def head(tmp_path):
    """A head of its own, beside whatever Ray the other tests use."""
    port, dashboard = free_port(), free_port()
    process = subprocess.Popen(
        [
            *(RAY, "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats"),
            *(f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"),
            f"--dashboard-agent-listen-port={free_port()}",  # another Ray has the default
            "--object-store-memory=200000000",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield f"http://127.0.0.1:{dashboard}"
    process.terminate()
    process.wait(30)


def test_submitted_job_scores_and_gives_its_exit_code(head, corpus, tmp_path, tiny_model):
    job = tmp_path / "job.yaml"
    out = tmp_path / "out"
    data = {
        "input": {"path": str(corpus), "carry": ["id"]},
        "output": {"path": str(out)},
        "model": {"name": tiny_model},
    }
    job.write_text(yaml.safe_dump(data))

    def submit(*changes: str) -> subprocess.CompletedProcess:
        command = [RAY, "job", "submit", "--address", head, "--working-dir", str(ROOT / "jobs")]
        deadline = time.monotonic() + 120
        while True:
            done = subprocess.run(
                [*command, "--", sys.executable, "score.py", str(job), *changes],
                capture_output=True, text=True, env=os.environ, timeout=240,
            )  # fmt: skip
            starting = "No available agent" in done.stderr or "Failed to connect" in done.stderr
            if not starting or time.monotonic() > deadline:
                return done
            time.sleep(2)  # the head has only just been started

    done = submit()
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(pd.read_parquet(out)["id"]) == list(range(600))
    refused = submit("input.text=nothing")
    assert refused.returncode != 0
    assert "belongs to another job" in refused.stdout
