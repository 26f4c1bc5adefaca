"""What the child process of a run does: the inline executor behind a pipe.

It obeys orders in turn: from which level on to log, with the run's context, for which it loads the
model; then stages. What stages make stays here under a number, and only numbers are told. Ctrl-C
and SIGTERM are the parent's to judge; the process ends when its pipe does.
"""

import importlib
import itertools
import logging
import logging.handlers
import os
import pickle
import threading
import traceback
from collections.abc import Hashable
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from bertbatch.errors import JobError, RunError, SourceError, first_line

log = logging.getLogger("bertbatch")

IMPORTED = (  # while the job is checked
    "bertbatch.engines.torch_engine",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
)


def main(pipe: int) -> None:
    os.set_inheritable(pipe, False)
    _Child(Connection(pipe)).run()


class _Child:
    def __init__(self, pipe: "Connection[Any, Any]"):
        self._pipe = pipe
        self._sending = threading.Lock()
        self._inbox: SimpleQueue[Any] = SimpleQueue()  # orders as bytes, handles of finished work
        self._under_way: dict[Hashable, tuple[int, str]] = {}  # number of the order, what it is
        self._held: dict[int, Any] = {}
        self._numbers = itertools.count(1)

    def run(self) -> None:
        threading.Thread(target=self._receive, daemon=True).start()
        from bertbatch.runtime.executors.inline import InlineExecutor

        for module in IMPORTED:
            with suppress(Exception):  # whoever needs it says so
                importlib.import_module(module)
        level, context = pickle.loads(self._inbox.get())
        self._log_to_parent(level)
        try:
            self._executor = InlineExecutor(context, self._inbox, alone=False)
        except Exception as error:
            self._send("failed", portable(error))
            return
        self._send("ready", self._executor.kinds)
        while True:
            item = self._inbox.get()
            if isinstance(item, bytes):
                self._begin(*pickle.loads(item))
            else:
                self._answer(item)

    def _receive(self) -> None:
        """Every order, as it comes; none is left unread, so that the parent never waits."""
        try:
            while True:
                self._inbox.put(self._pipe.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)

    def _send(self, *message: Any) -> None:
        data = pickle.dumps(message)
        with self._sending, suppress(OSError):  # the parent is gone, and `_receive` sees it
            self._pipe.send_bytes(data)

    def _log_to_parent(self, level: int) -> None:
        handler = _Handler(self._send)
        log.handlers[:] = [handler]
        log.setLevel(level)
        log.propagate = False

    def _begin(self, number: int, what: str, given: tuple[Any, ...], dropped: list[int]) -> None:
        for old in dropped:
            self._held.pop(old, None)
        if what == "read":
            (units,) = given
            handle = self._executor.read(units)
        elif what == "score":
            worker, tokens, first, stop = given
            handle = self._executor.score(worker, self._held[tokens], first, stop)
        else:
            unit, passthrough, poison, pieces = given
            scored = [self._held[piece] for piece in pieces]
            handle = self._executor.commit(unit, self._held[passthrough], poison, scored)
        self._under_way[handle] = number, what

    def _answer(self, handle: Hashable) -> None:
        number, what = self._under_way.pop(handle)
        value, error = None, None
        try:
            value = self._executor.result(handle)
            if what == "read":
                value = [(self._hold(a), self._hold(b), rows) for a, b, rows in value]
            elif what == "score":
                value = self._hold(value)
        except BaseException as raised:  # a tokenizer in Rust may panic
            error = portable(raised)
        self._send("done", number, value, error, self._executor.kinds)

    def _hold(self, value: Any) -> int:
        number = next(self._numbers)
        self._held[number] = value
        return number


class _Handler(logging.handlers.QueueHandler):
    """Sends each record, its message made."""

    def __init__(self, send: Any):
        super().__init__(None)  # type: ignore[arg-type]
        self._send = send

    def enqueue(self, record: logging.LogRecord) -> None:
        self._send("log", record)


def portable(error: BaseException) -> Exception:
    """An error as it can be told: itself, or what it says if it cannot be pickled."""
    if not isinstance(error, JobError | RunError | SourceError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        if isinstance(error, Exception) and type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:  # whatever its class does when it is pickled
        pass
    said = f"{type(error).__name__}: {first_line(error)}"
    return OSError(error.errno, said) if isinstance(error, OSError) else RuntimeError(said)
