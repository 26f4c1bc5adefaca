"""Killed, stopped and poisoned: the same command again ends in the same answers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from bertbatch.checks.verify import verify
from bertbatch.output.folder import open_output
from tests.conftest import write_parquet
from tests.forks import Run
from tests.tiny import make_texts

ROOT = Path(__file__).parent.parent

Process = Run | subprocess.Popen


def start(model: str, input: Path, out: Path, *options: str, **faults: str) -> Process:
    """The command line in its own process, with faults in all its Python processes."""
    fixed = ["--set", "model.dtype=float32", "--set", "model.tokens_per_batch=512"]
    arguments = [
        *("score", str(input), str(out), "--carry", "id", "--model", model),
        *("--log", "plain", *fixed, *options),
    ]
    if "inline" in options:
        return Run(arguments, faults)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests' / 'faults'}:{ROOT}", **faults}
    return subprocess.Popen(
        [sys.executable, "-m", "bertbatch", *arguments],
        cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: Process) -> tuple[int, str]:
    stdout, stderr = process.communicate(timeout=240)
    return process.returncode, stdout + stderr


def wait_for_parts(out: Path, count: int, process: Process) -> None:
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.parquet"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answers(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out).sort_values("id", ignore_index=True)


def sound(out: Path, **known: int) -> None:
    """Nothing lost, doubled or harmed, and the totals as given."""
    verdict = verify(open_output(str(out)))
    assert verdict.problems == []
    for name, value in known.items():
        assert getattr(verdict, name) == value, name


def same_answers(got: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert got["id"].tolist() == expected["id"].tolist()
    assert got["label"].tolist() == expected["label"].tolist()
    np.testing.assert_allclose(np.stack(got["scores"]), np.stack(expected["scores"]), atol=1e-5)


@pytest.fixture
def expected(score, corpus, tmp_path) -> pd.DataFrame:
    """The fault-free answers."""
    score(corpus, tmp_path / "expected", **{"input.carry": ["id"]})
    return answers(tmp_path / "expected")


@pytest.mark.faults
def test_driver_killed_then_resumed_with_other_units(corpus, tmp_path, tiny_model, expected):
    out = tmp_path / "out"
    process = start(tiny_model, corpus, out, "--unit-rows", "10", FAULT_SLEEP="0.3")
    wait_for_parts(out, 5, process)
    process.kill()
    process.wait()
    there = len(list(out.glob("*.parquet")))
    assert there < 60
    assert not (out / "_SUCCESS.json").exists()
    code, text = finish(start(tiny_model, corpus, out, "--unit-rows", "25"))
    assert code == 0, text
    there_then = int(text.split(" planned units were already there")[0].split()[-3])
    assert there <= there_then < 62
    same_answers(answers(out), expected)
    sound(out, rows_scored=600)
    assert json.loads((out / "_SUCCESS.json").read_text())["rows_scored"] == 600


def test_scoring_worker_killed(corpus, tmp_path, tiny_model, expected):
    out = tmp_path / "out"
    process = start(tiny_model, corpus, out, "--unit-rows", "20", FAULT_SLEEP="0.3")
    wait_for_parts(out, 3, process)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if any("_Scorer" in word for word in child.cmdline())
    ]
    assert workers
    workers[0].kill()
    code, text = finish(process)
    assert code == 0, text
    assert "a model worker died" in text
    same_answers(answers(out), expected)
    sound(out, rows_scored=600)


@pytest.mark.faults
def test_two_workers_load_two_models_for_a_thousand_units(tmp_path, tiny_model):
    write_parquet(tmp_path / "in.parquet", make_texts(1000))
    loads = tmp_path / "loads"
    options = ("--unit-rows", "1", "--set", "runtime.workers=2")
    source, out = tmp_path / "in.parquet", tmp_path / "out"
    code, text = finish(start(tiny_model, source, out, *options, FAULT_LOADS=str(loads)))
    assert code == 0, text
    assert len(list(out.glob("*.parquet"))) == 1000
    assert len(loads.read_text().splitlines()) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal_says_how_to_go_on(
    number, code, corpus, tmp_path, tiny_model, expected
):
    out = tmp_path / "out"
    options = ("--unit-rows", "10", "--runner", "inline")
    process = start(tiny_model, corpus, out, *options, FAULT_SLEEP="0.2")
    wait_for_parts(out, 3, process)
    process.send_signal(number)
    got, text = finish(process)
    assert got == code, text
    assert "run the same command again" in text
    assert "Traceback" not in text
    assert not (out / "_SUCCESS.json").exists()
    code, text = finish(start(tiny_model, corpus, out, *options))
    assert code == 0, text
    same_answers(answers(out), expected)


@pytest.mark.faults
def test_sigterm_while_the_books_are_closed(corpus, tmp_path, tiny_model):
    out = tmp_path / "out"
    process = start(tiny_model, corpus, out, "--unit-rows", "100")
    wait_for_parts(out, 7, process)  # all of them
    process.send_signal(signal.SIGTERM)
    code, text = finish(process)
    assert code in (0, 143), text  # 0: it was over before
    assert "Traceback" not in text
    assert (out / "_SUCCESS.json").exists() == (code == 0)


@pytest.mark.faults
def test_ctrl_c_on_ray(corpus, tmp_path, tiny_model):
    out = tmp_path / "out"
    process = start(tiny_model, corpus, out, "--unit-rows", "10", FAULT_SLEEP="0.3")
    wait_for_parts(out, 3, process)
    process.send_signal(signal.SIGINT)
    code, text = finish(process)
    assert code == 130, text
    assert "Traceback" not in text
    assert len(list(out.glob("*.parquet"))) < 62
