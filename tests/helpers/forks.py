"""Runs of the command line that need not import anything: they are forked from a process that has.

Such a run starts in tenths of a second instead of seconds, so that hundreds of kills at random
moments hit the work rather than the imports. It is a process of its own in every other way.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from tests.helpers.paths import ROOT, WITH_FAULTS


class Run:
    """One run, with what tests use of `subprocess.Popen`."""

    def __init__(self, arguments: list[str], faults: dict[str, str]):
        handle, self._said = tempfile.mkstemp(prefix="said-")
        os.close(handle)
        self.returncode: int | None = None
        self.pid = _ask(arguments=arguments, environment=faults, said=self._said)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _ask(wait=self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 240) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("bertbatch", timeout)
            time.sleep(0.02)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float = 240) -> tuple[str, str]:
        self.wait(timeout)
        said = Path(self._said)
        text = said.read_text()
        said.unlink()
        return "", text


@cache
def _server() -> "subprocess.Popen[str]":
    server = subprocess.Popen(
        [sys.executable, __file__],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": WITH_FAULTS},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.kill)
    return server


def _ask(**what: Any) -> Any:
    server = _server()
    assert server.stdin
    assert server.stdout
    server.stdin.write(json.dumps(what) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def _serve() -> None:
    import pandas
    import transformers.models.bert.modeling_bert

    del pandas, transformers
    for line in sys.stdin:
        what = json.loads(line)
        answer: int | None
        if "wait" in what:
            pid, status = os.waitpid(what["wait"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif (answer := os.fork()) == 0:
            _run(**what)
        print(json.dumps(answer), flush=True)


def _run(arguments: list[str], environment: dict[str, str], said: str) -> None:
    """Becomes the command line, and ends as it does."""
    null, file = os.open(os.devnull, os.O_RDONLY), os.open(said, os.O_WRONLY)
    for old, new in ((null, 0), (file, 1), (file, 2)):
        os.dup2(old, new)
    os.environ.update(environment)
    import sitecustomize

    from bertbatch.cli import app

    sitecustomize.install()
    sys.argv = ["bertbatch", *arguments]
    code = 1
    try:
        app()
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
