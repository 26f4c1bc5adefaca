"""Standard error as JSON lines, whoever writes to it: this program, libraries, child processes."""

import atexit
import fcntl
import json
import os
import sys
import threading
from contextlib import suppress
from datetime import datetime
from typing import Any

from bertbatch.display.streams import SteadyFile

_BEGIN = '{"event": '  # of an event
_END = b"\0the end of standard error\0\n"
_PIPE_BYTES = 1 << 20
_CLOSE_SECONDS = 5.0


def json_line(event: str, content: dict[str, Any], run: str = "") -> str:
    """An event as one line: what it is, when, and of which run."""
    now = datetime.now().astimezone().isoformat(timespec="milliseconds")
    return json.dumps({"event": event, "time": now, "run": run, **content}, ensure_ascii=False)


def asks_for_json(words: list[str]) -> bool:
    """Whether a command line has `--log json`, also where it is otherwise wrong."""
    words = words[: words.index("--")] if "--" in words else words
    given = ""
    for word, after in zip(words, [*words[1:], ""], strict=False):
        if word == "--log":
            given = after
        elif word.startswith("--log="):
            given = word.removeprefix("--log=")
    return given == "json"


class JsonStderr:
    """From now on each line of standard error is an event, until the process ends.

    What is no event becomes one of the kind `stderr`. A pipe takes the place of the stream's
    number, so that this also holds for C libraries and for child processes.
    """

    def __init__(self) -> None:
        self._run = ""
        self._out = SteadyFile(os.dup(2), "w")
        read, write = os.pipe()
        if sys.platform == "linux":
            with suppress(OSError):
                fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        # C code that fills the pipe while it holds the interpreter must lose what it says, not
        # wait for the thread that would read it. Python's own stream waits outside of it.
        os.set_blocking(write, False)
        os.dup2(write, 2)
        os.close(write)
        self._thread = threading.Thread(target=self._forward, args=(read,), daemon=True)
        self._thread.start()
        atexit.register(self._close)  # before all others, so that it is called last

    def _close(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
            os.write(2, _END)  # others may hold the pipe open
        self._thread.join(_CLOSE_SECONDS)
        os.dup2(self._out.fileno(), 2)

    def _forward(self, read: int) -> None:
        with open(read, "rb") as lines:
            for line in lines:
                self._write(line.removesuffix(_END).decode(errors="backslashreplace"))
                if line.endswith(_END):
                    return

    def _write(self, line: str) -> None:
        said, begin, rest = line.partition(_BEGIN)  # a library may leave its line without an end
        event: Any = None
        with suppress(ValueError, RecursionError):
            event = json.loads(begin + rest)
        if not isinstance(event, dict):
            said, event = line, None
        if said := said.strip().rpartition("\r")[2]:  # of a bar that is drawn anew, the last
            self._put(json_line("stderr", {"message": said}, self._run))
        if event is not None:
            self._run = event.get("run") or self._run
            self._put(json.dumps({**event, "run": self._run}, ensure_ascii=False))

    def _put(self, line: str) -> None:
        self._out.write(f"{line}\n".encode(errors="backslashreplace"))
