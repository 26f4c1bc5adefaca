"""The command line, in processes of its own with faults or in this one."""

import io
import logging
import os
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import typer

from bertbatch.cli import app
from tests.helpers.forks import Run
from tests.helpers.paths import ROOT, WITH_FAULTS

CODES = {0, 2, 3, 4, 130}

Process = Run | subprocess.Popen


def start(model: str, input: Path, out: Path, *options: str, **faults: str) -> Process:
    """The command line in its own process, with faults in all its Python processes.

    On Ray, unless the options name another runner.
    """
    if "--runner" not in options:
        options = (*options, "--runner", "ray")
    fixed = ["--set", "model.dtype=float32", "--set", "model.tokens_per_batch=512"]
    arguments = [
        *("score", str(input), str(out), "--carry", "id", "--model", model),
        *("--log", "plain", *fixed, *options),
    ]
    if "inline" in options:
        return Run(arguments, faults)
    environment = {**os.environ, "PYTHONPATH": WITH_FAULTS, **faults}
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


def run_killed_once(model: str, corpus: Path, out: Path, *options: str) -> None:
    """A run that is killed after a few of its 60 parts, and the same again in other units."""
    process = start(model, corpus, out, *options, "--unit-rows", "10", FAULT_SLEEP="0.2")
    wait_for_parts(out, 3, process)
    process.kill()
    finish(process)
    assert len(list(out.glob("*.parquet"))) < 60
    code, text = finish(start(model, corpus, out, *options, "--unit-rows", "25"))
    assert code == 0, text


def invoke(*words):
    """A command in this process, on streams such as `make_steady` makes: exit code and output."""
    said = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)
    try:
        with redirect_stdout(said), redirect_stderr(said):
            typer.main.get_command(app).main(list(words), prog_name="bertbatch")
        code = 0
    except SystemExit as error:
        code = error.code or 0
    finally:
        logging.getLogger("bertbatch").handlers.clear()  # they hold the streams
    output = said.buffer.getvalue().decode()
    assert code in CODES, output
    assert "Traceback" not in output, output
    return code, output
