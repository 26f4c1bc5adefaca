"""Commands at terminals of every kind, forked from a process that has imported what they need.

Each line of stdin is one: arguments, and what its standard streams are. Its exit code, and what
came through, is one line of stdout.
"""

import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

IMPORTED = (
    *(
        "pandas",
        "transformers.models.bert.modeling_bert",
        "bertbatch.runtime.run",
        "bertbatch.display.progress",
    ),
    *(
        "bertbatch.checks.verify",
        "bertbatch.display.attention_tables",
        "bertbatch.runtime.executors.inline",
    ),
    *("bertbatch.engines.torch_engine", "bertbatch.engines.attention_stats"),
)


def serve() -> None:
    import importlib

    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)


def run(arguments: list[str], streams: dict[str, str], encoding: str, folder: str) -> Any:
    """`streams`: what stdin, stdout and stderr are, see `_open`."""
    said = {name: tempfile.mkstemp(prefix=f"{name}-")[1] for name in ("stdout", "stderr")}
    if (pid := os.fork()) == 0:
        os.chdir(folder)
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            _open(number, streams.get(name, "file"), said.get(name, os.devnull))
            there = None
            if streams.get(name) != "closed":
                # As the interpreter opens them.
                raw = open(number, "rb" if name == "stdin" else "wb", closefd=False)  # noqa: SIM115
                errors = "backslashreplace" if name == "stderr" else "strict"
                there = io.TextIOWrapper(raw, encoding, errors, line_buffering=name == "stderr")
            setattr(sys, name, there)
            setattr(sys, f"__{name}__", there)
        _run(arguments)
    _, status = os.waitpid(pid, 0)
    text = {name: Path(path).read_text(encoding, "replace") for name, path in said.items()}
    for path in said.values():
        os.unlink(path)
    return [os.waitstatus_to_exitcode(status), text["stdout"], text["stderr"]]


def _open(number: int, kind: str, path: str) -> None:
    if kind == "closed":
        os.close(number)
        return
    if kind == "file":
        opened = os.open(path, os.O_RDWR)
    elif kind == "full":
        opened = os.open("/dev/full", os.O_RDWR)
    elif kind == "left":  # a pipe whose reader has gone
        reader, opened = os.pipe()
        os.close(reader)
    else:
        master, opened = os.openpty()
        if kind == "hung up":
            os.close(master)
    os.dup2(opened, number)
    os.close(opened)


def _run(arguments: list[str]) -> None:
    """Becomes the command line, and ends as the interpreter does."""
    from bertbatch.cli import app

    sys.argv = ["bertbatch", *arguments]
    code = 1
    try:
        app()
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except Exception:
            code = 120
    os._exit(code)


if __name__ == "__main__":
    serve()
