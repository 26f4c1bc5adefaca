"""The lease: a file that says which run is working on an output.

It keeps a second run from doing the same work. Correctness does not depend on it: two concurrent
runs never double a row (see `commit.py`). Its holder rewrites it every few seconds. A run that
finds a lease watches whether it changes, so that no clocks are compared; if it does not, its holder
is dead or cut off.
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

HEARTBEAT_SECONDS = 10.0
LEASE_TTL_SECONDS = 45.0  # without a heartbeat for this long, another run may take it over
POLL_SECONDS = 1.0
LEASE_SHAPE = {
    **{"run": text, "host": text, "pid": count, "born": text, "beat?": count},
    "progress?": {"rows?": number, "tokens?": number, "seconds?": number},
}


@dataclass
class Holder:
    """The content of the lease: which run holds it, where that runs, how far it is."""

    run: str
    host: str
    pid: int
    born: str  # when the process began: another may get its number later
    beat: int = 0
    progress: dict[str, Any] = field(default_factory=dict)

    @property
    def gone(self) -> bool:
        """Whether its process ran on this host and has ended."""
        return self.host == platform.node() and self.born != _born(self.pid)


class Lease:
    """The lease of an output, as one run waits for it, takes it and renews it."""

    def __init__(self, output: Output, run: str, on_busy: Literal["fail", "wait", "share"]):
        self.lost = False  # whether another run has taken it over from this one
        self._output = output
        self.path = output.at("_bertbatch", "lease.json")
        self._on_busy = on_busy
        self._me = Holder(run, platform.node(), os.getpid(), _born(os.getpid()))
        self._dead: Holder | None = None  # its lease may be replaced
        self._stop = threading.Event()
        self._heartbeat: threading.Thread | None = None

    def wait(self) -> bool:
        """Waits until no other run is working on the output. Returns whether it had to wait.

        Raises JobError if another run is, and the job says to fail then.
        """
        seen = holder(self._output)
        if seen is None or seen.gone or seen == self._dead or self._on_busy == "share":
            return False
        log.info(
            "run %s on %s holds the lease on this output; waiting up to %.0f s for a heartbeat",
            seen.run,
            seen.host,
            LEASE_TTL_SECONDS,
        )
        alive = False
        since = time.monotonic()
        while time.monotonic() - since < LEASE_TTL_SECONDS:
            time.sleep(POLL_SECONDS)
            now = holder(self._output)
            if now is None or now.gone:
                break
            if now == seen:
                continue
            if self._on_busy == "fail":
                raise JobError(
                    f"run {now.run} on {now.host} (process {now.pid}) is working on this output; "
                    "wait until it ends or stop it, or set runtime.on_busy: wait to begin after it"
                )
            if not alive:
                log.info("run %s is alive; this run begins when it has ended", now.run)
            alive, seen, since = True, now, time.monotonic()
        self._dead = now
        return True

    def take(self) -> None:
        """Takes the lease and keeps renewing it, after waiting if the job says so.

        Raises JobError if another run was faster, and the job says to fail then.
        """
        try:
            while not self._taken():
                if self._on_busy == "share":
                    return
                self.wait()
        except OSError as error:
            log.warning("no lease on this output (%s): another run may do the same work", error)
            return
        self._heartbeat = threading.Thread(target=self._beat, daemon=True, name="lease")
        self._heartbeat.start()

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
                    "wait until it ends, or set runtime.on_busy: wait to begin after it"
                )
            log.warning("run %s is also working on this output: work may be done twice", now.run)
            return False
        self._output.store.replace(self.path, self._content())
        return True

    def set_progress(self, progress: dict[str, Any]) -> None:
        """How far the run is, for the next heartbeat."""
        self._me.progress = progress

    @property
    def held(self) -> bool:
        return self._heartbeat is not None and not self.lost

    def release(self) -> None:
        if self._heartbeat is None:
            return
        self._stop.set()
        self._heartbeat.join(HEARTBEAT_SECONDS)
        with suppress(OSError):
            now = holder(self._output)
            if now is not None and now.run == self._me.run:
                self._output.store.delete(self.path)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                now = holder(self._output)
                if now is not None and now.run != self._me.run:
                    self.lost = True
                    return
                self._me.beat += 1
                self._output.store.replace(self.path, self._content())
            except Exception as error:  # of any type; the next heartbeat may succeed
                log.warning("the lease on this output could not be renewed: %s", error)

    def _content(self) -> bytes:
        return to_json(asdict(self._me))


def holder(output: Output) -> Holder | None:
    """The holder of an output's lease; None if there is none, or it cannot be read."""
    try:
        record = json.loads(output.store.read(output.at("_bertbatch", "lease.json")))
        return Holder(**record) if fits(record, LEASE_SHAPE) else None
    except Exception:  # of any type: correctness does not depend on the lease
        return None


def _born(pid: int) -> str:
    """When a process on this host began, in the system's own unit; empty if there is none."""
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
