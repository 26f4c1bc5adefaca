"""The lease: a file that says which run is at work on an output, so that no other does the same.

It saves work, and nothing depends on it: two runs at once never double a row (commit.py sees
to that). Its holder rewrites it every few seconds. Whoever finds one watches whether it
changes, so that no clocks are compared; if it stands still, its holder is dead or cut off.
"""

import json
import logging
import os
import platform
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bertbatch.errors import JobError
from bertbatch.output.folder import Output
from bertbatch.output.records import count, fits, number, text, to_json

log = logging.getLogger("bertbatch")

BEAT_SECONDS = 10.0
PATIENCE_SECONDS = 45.0  # a lease that stands still for so long is nobody's
LOOK_SECONDS = 1.0
HOLDER = {
    **{"run": text, "host": text, "pid": count, "born": text, "beat?": count},
    "progress?": {"rows?": number, "tokens?": number, "seconds?": number},
}


@dataclass
class Holder:
    """What the lease says: whose it is, where that runs, how far it is."""

    run: str
    host: str
    pid: int
    born: str  # of the process, so that another with its number is told apart
    beat: int = 0
    progress: dict[str, Any] = field(default_factory=dict)

    @property
    def gone(self) -> bool:
        """Whether its process ran on this host and is there no more."""
        return self.host == platform.node() and self.born != _born(self.pid)


class Lease:
    """One run's dealings with the lease of its output."""

    def __init__(self, output: Output, run: str, on_busy: Literal["fail", "wait", "share"]):
        self.lost = False  # whether another run has taken it over
        self._output = output
        self.path = output.at("_bertbatch", "lease.json")
        self._on_busy = on_busy
        self._me = Holder(run, platform.node(), os.getpid(), _born(os.getpid()))
        self._dead: Holder | None = None  # whose lease may be replaced
        self._stop = threading.Event()
        self._beating: threading.Thread | None = None

    def wait(self) -> bool:
        """Sees to it that nobody else is at work; whether that took any time.

        Raises JobError if somebody is, and the job says to fail then.
        """
        seen = holder(self._output)
        if seen is None or seen.gone or seen == self._dead or self._on_busy == "share":
            return False
        log.info(
            "run %s on %s has the lease on this output; watching for up to %.0f s whether it lives",
            *(seen.run, seen.host, PATIENCE_SECONDS),
        )
        alive = False
        since = time.monotonic()
        while time.monotonic() - since < PATIENCE_SECONDS:
            time.sleep(LOOK_SECONDS)
            now = holder(self._output)
            if now is None or now.gone:
                break
            if now == seen:
                continue
            if self._on_busy == "fail":
                raise JobError(
                    f"run {now.run} on {now.host} (process {now.pid}) is at work on this output; "
                    "let it end or stop it, or set runtime.on_busy: wait to begin after it"
                )
            if not alive:
                log.info("it lives; this run begins when it has ended")
            alive, seen, since = True, now, time.monotonic()
        self._dead = now
        return True

    def take(self) -> bool:
        """Takes the lease and keeps it beating; whether it had to wait for another run.

        Raises JobError if another run was faster, and the job says to fail then.
        """
        waited = False
        try:
            while not self._taken():
                if self._on_busy == "share":
                    return waited
                waited = self.wait() or waited
        except OSError as error:
            log.warning("no lease on this output (%s): another run may do the same work", error)
            return waited
        self._beating = threading.Thread(target=self._beat, daemon=True, name="lease")
        self._beating.start()
        return waited

    def _taken(self) -> bool:
        try:
            self._output.store.create(self.path, self._content())
            return True
        except FileExistsError:
            now = holder(self._output)
        if now is not None and now != self._dead and not now.gone:
            if self._on_busy == "wait":
                return False
            if self._on_busy == "fail":
                raise JobError(
                    f"run {now.run} on {now.host} began on this output at the same moment; "
                    "let it end"
                )
            log.warning("run %s is at work here, too: work may be done twice", now.run)
            return False
        self._output.store.replace(self.path, self._content())
        return True

    def tell(self, progress: dict[str, Any]) -> None:
        """What the next beat says of how far the run is."""
        self._me.progress = progress

    @property
    def held(self) -> bool:
        return self._beating is not None and not self.lost

    def release(self) -> None:
        if self._beating is None:
            return
        self._stop.set()
        self._beating.join(BEAT_SECONDS)
        with suppress(OSError):
            now = holder(self._output)
            if now is not None and now.run == self._me.run:
                self._output.store.delete(self.path)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                now = holder(self._output)
                if now is not None and now.run != self._me.run:
                    self.lost = True
                    return
                self._me.beat += 1
                self._output.store.replace(self.path, self._content())
            except Exception as error:  # whatever a store's client raises; the next beat may do
                log.warning("the lease on this output could not be renewed: %s", error)

    def _content(self) -> bytes:
        return to_json(asdict(self._me))


def holder(output: Output) -> Holder | None:
    """Who has the lease of an output; None if nobody has, or it cannot be read."""
    try:
        record = json.loads(output.store.read(output.at("_bertbatch", "lease.json")))
        return Holder(**record) if fits(record, HOLDER) else None
    except Exception:  # whatever a store's client raises: nothing depends on the lease
        return None


def _born(pid: int) -> str:
    """When a process on this host began, in whatever unit; empty if there is none."""
    try:
        # Fields 3 (state) and 22 (start time); the second, in brackets, may have spaces.
        # Linux' proc_pid_stat(5).
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]
    except OSError:
        if Path("/proc").is_dir():
            return ""
    try:  # no /proc: then only whether there is one
        os.kill(pid, 0)
    except OSError:
        return ""
    return "alive"
