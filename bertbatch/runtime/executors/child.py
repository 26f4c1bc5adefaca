"""Work in a child process, which has torch: this one keeps only the numbers of what is there.

The child is started by subprocess, since it then needs no `__main__` to import and works in
notebooks. It is started before the job is checked, and imports what it needs meanwhile. What it
does is in `child_process.py`. It ends when this process does: its end of the pipe closes.
"""

import logging
import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Pipe
from pathlib import Path
from queue import SimpleQueue
from signal import Signals
from typing import TYPE_CHECKING, Any

import bertbatch
from bertbatch.errors import DataLost
from bertbatch.runtime.executors.executor import IN_ONE_PROCESS, WorkerDied, told
from bertbatch.units import Unit

if TYPE_CHECKING:
    from bertbatch.runtime.context import Context

log = logging.getLogger("bertbatch")

END_SECONDS = 5.0  # for the pipe of a process that was killed to end

# The working folder is not on its path, where a file `torch.py` would be taken for the package.
# A Ctrl-C is the parent's to judge from the beginning.
_COMMAND = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); sys.path.append(sys.argv[1]); "
    "from bertbatch.runtime.executors.child_process import main; main(int(sys.argv[2]))"
)


class Child:
    """The process. It reads orders as they are sent; `on_message` gets what it tells.

    `died` says how it ended, once it has. Raises OSError if no process can be started.
    """

    def __init__(self) -> None:
        self.died = ""
        self._messages: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self.on_message: Callable[[str, Any], None] = lambda *said: self._messages.put(said)
        here, there = Pipe()
        ours = str(Path(bertbatch.__file__).parent.parent)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _COMMAND, ours, str(there.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=_standard_error(),  # what libraries print is no result of the job
                pass_fds=[there.fileno()],
            )
        except BaseException:
            here.close()
            raise
        finally:
            there.close()
        self._pipe = here
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def send(self, order: Any) -> None:
        with suppress(OSError):  # it is gone, which `on_message` is told
            self._pipe.send_bytes(pickle.dumps(order))

    def load(self, context: "Context") -> dict[str, dict[str, Any]]:
        """Has it load the model; the kinds of worker there. Raises JobError, WorkerDied."""
        self.send((log.getEffectiveLevel(), context))
        what, content = self._messages.get()
        if what == "ready":
            kinds: dict[str, dict[str, Any]] = content
            return kinds
        raise content if what == "failed" else WorkerDied(self.died)

    def close(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()
        self._listener.join(END_SECONDS)
        self._pipe.close()

    def _listen(self) -> None:
        try:
            while True:
                what, *content = pickle.loads(self._pipe.recv_bytes())
                if what == "log":
                    logging.getLogger(content[0].name).handle(content[0])
                else:
                    self.on_message(what, content[0] if len(content) == 1 else content)
        except (EOFError, OSError):
            pass
        finally:
            self._process.kill()  # if what it tells cannot be read
            code = self._process.wait()
            self.died = f"signal {Signals(-code).name}" if code < 0 else f"exit code {code}"
            self.on_message("died", None)


def _standard_error() -> int:
    try:
        os.fstat(2)
        return 2
    except OSError:
        return subprocess.DEVNULL


@dataclass(eq=False)
class ChildHandle:
    """Work under way in the child; `error` is set where it has failed."""

    what: str
    value: Any = None
    error: BaseException | None = None


@dataclass(eq=False)
class Held:
    """What a stage has made, by its number in the child, which lets go of it with this."""

    number: int
    dropped: deque[int] = field(repr=False)

    def __del__(self) -> None:
        self.dropped.append(self.number)


class ChildExecutor:
    workers = 1
    readers = IN_ONE_PROCESS

    def __init__(self, child: Child, context: "Context"):
        """Raises JobError if the model cannot be had, WorkerDied if the child is gone."""
        self._child = child
        self.kinds = child.load(context)
        self._lock = threading.Lock()
        self._dead = False
        self.died_scoring = False  # then `result` of some handle raises WorkerDied
        self._last = 0
        self._under_way: dict[int, ChildHandle] = {}
        self._dropped: deque[int] = deque()  # numbers of what nobody here holds any more
        self._done: SimpleQueue[ChildHandle] = SimpleQueue()
        child.on_message = self._told
        if child.died:
            self._told("died", None)

    @property
    def dead(self) -> str:
        """How the child died; empty while it lives."""
        return self._child.died if self._dead else ""

    def adapt(self) -> None:
        """There is only this child."""

    def blind_nodes(self, path: str, content: str) -> list[str]:
        return []

    def ready(self, worker: int) -> bool:
        return True

    def read(self, units: Sequence[Unit]) -> Hashable:
        return self._begin("read", list(units))

    def score(self, worker: int, tokens: Any, first: int, stop: int) -> Hashable:
        return self._begin("score", worker, tokens.number, first, stop)

    def commit(
        self, unit: Unit, passthrough: Any, poison: Sequence[tuple[int, str]], pieces: Sequence[Any]
    ) -> Hashable:
        numbers = [piece.number for piece in pieces]
        return self._begin("commit", unit, passthrough.number, list(poison), numbers)

    def _begin(self, what: str, *given: Any) -> ChildHandle:
        handle = ChildHandle(what)
        with self._lock:
            if self._dead:
                handle.error = DataLost("it was in a process that died")
                self._done.put(handle)
                return handle
            self._last += 1
            self._under_way[self._last] = handle
        dropped = [self._dropped.popleft() for _ in range(len(self._dropped))]
        self._child.send((self._last, what, given, dropped))
        return handle

    def _told(self, what: str, content: Any) -> None:
        """In the thread that listens."""
        with self._lock:
            if what == "died":
                self._dead = True
                lost, self._under_way = self._under_way, {}
                for handle in lost.values():
                    scoring = handle.what == "score"
                    self.died_scoring |= scoring
                    handle.error = (WorkerDied if scoring else DataLost)("its process died")
                    self._done.put(handle)
                return
            number, value, error, self.kinds = content
            handle = self._under_way.pop(number)
        handle.value, handle.error = value, error
        self._done.put(handle)

    def wait(self, timeout: float) -> list[Hashable]:
        return told(self._done, timeout)

    def result(self, handle: Any) -> Any:
        if handle.error is not None:
            raise handle.error
        if handle.what == "read":
            return [(self._held(a), self._held(b), rows) for a, b, rows in handle.value]
        return self._held(handle.value) if handle.what == "score" else handle.value

    def _held(self, number: int) -> Held:
        return Held(number, self._dropped)

    def replace(self, worker: int) -> None:
        """`auto.py` goes on with Ray."""

    def close(self) -> None:
        self._child.close()
