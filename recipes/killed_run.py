"""Prints a run as a terminal shows it: killed, resumed, stopped by SIGTERM, resumed to its end.

`python -m recipes.killed_run FILE` makes the examples of README.md and docs/operations.md.
"""

import argparse
import glob
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

PARTS = "predictions/*.parquet"


def show(command: str, stop: signal.Signals | None = None, parts: int = 0) -> None:
    """Runs a command and prints what it prints; sends it a signal once there are so many parts."""
    print(f"$ {command}", flush=True)
    here = f"{os.getcwd()}/"
    words = [sys.executable, "-m", *shlex.split(command)]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    assert process.stdout
    for line in process.stdout:
        print(line.replace(here, "").rstrip(), flush=True)
        if stop and len(glob.glob(PARTS)) >= parts:
            process.send_signal(stop)
            stop = None
    if process.wait() == -signal.SIGKILL:
        print("Killed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="any input of bertbatch")
    parser.add_argument("--text", default="text", help="the column with the text")
    parser.add_argument("--limit", type=int, default=8000, help="how many of its rows")
    parser.add_argument("--parts", type=int, nargs=2, default=(18, 35), help="killed, stopped at")
    given = parser.parse_args()
    command = f"bertbatch score {given.file} predictions --text {given.text} --limit {given.limit}"
    killed, stopped = given.parts
    file = given.file.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if not given.file.is_absolute():  # the same words name it there
            given.file.parent.mkdir(parents=True, exist_ok=True)
            given.file.symlink_to(file)
        show(command, signal.SIGKILL, killed)
        print(f"$ ls {PARTS} | wc -l\n{len(glob.glob(PARTS))}")
        show(command, signal.SIGTERM, stopped)
        show(command)
        show("bertbatch status predictions")
        os.chdir("/")


if __name__ == "__main__":
    main()
