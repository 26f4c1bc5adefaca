"""Submission of a job to a Ray cluster: its files, its log, its exit code.

The job's own driver runs on the cluster, as `bertbatch run` would here; watching it can stop
at any time without stopping the job.
"""

import asyncio
import logging
import os
import re
import shlex
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import bertbatch
from bertbatch.errors import JobError, RunError, first_line
from bertbatch.job.schema import Job
from bertbatch.model.locate import packaged
from bertbatch.runtime.executors.ray_tokens import HOW_TO_GIVE_A_TOKEN, token_file
from bertbatch.storage.stores import public

log = logging.getLogger("bertbatch")
T = TypeVar("T")

STOPPED = 130  # the code of a job that was told to stop
RETRY_SECONDS = 5.0
POLL_SECONDS = 1.0
CONNECT_SECONDS = 10.0  # for a dashboard that is just being started
STARTING_SECONDS = 60.0  # for a head that answers and cannot take a job yet
PATIENCE_SECONDS = 300.0  # for a dashboard that does not answer


@dataclass
class Submission:
    """What to submit, and how."""

    path: Path  # of the job file
    changes: list[str]
    address: str  # of the cluster's dashboard, http://…
    id: str | None = None  # from the job file's name and the time if None
    package: bool = True  # whether to upload bertbatch itself
    retries: int = 2


def submit(
    submission: Submission, detach: bool, ask_to_stop: Callable[[], bool], say: Callable[[str], Any]
) -> int:
    """Submits a job, and unless detached watches it to its end; its exit code.

    `say` gets what the job prints; after Ctrl-C `ask_to_stop` tells whether to stop the job, too.
    Raises JobError if it cannot be submitted.
    """
    job = Job.load(submission.path, submission.changes)
    check_paths(job)
    if any("storage_options" in change for change in submission.changes):
        raise JobError(
            "--set storage_options: a cluster's dashboard shows the command line of a job; write "
            "them into the job file, secrets as ${NAME}"
        )
    client = _client(submission.address)
    first = submission.id or f"{submission.path.stem}-{job.run}"
    id_ = first
    for attempt in range(submission.retries + 1):
        if attempt:
            id_ = f"{first}-retry{attempt}"
            log.warning("submitting it again as %s; committed units are kept", id_)
            time.sleep(RETRY_SECONDS)
        _send(client, id_, submission, job)
        log.info("submitted to %s as %s", public(submission.address), id_)
        if detach:
            say(f"bertbatch status {job.output.path}\nray job logs {id_} --follow\n")
            return 0
        try:
            code = _LogFollower(client, id_, say).exit_code()
        except KeyboardInterrupt:
            return _interrupted(client, id_, job, ask_to_stop)
        # What it ended with by itself stands. A signal's code or none means that its driver, or
        # the node under it, is gone, and that another try may fare better.
        if code is not None and (0 <= code <= 128 or code in (130, 143)):
            return code
        log.warning("the job's driver died (exit code %s)", code)
    return 3


def check_paths(job: Job) -> None:
    """Raises JobError for paths that mean nothing, or something else, on another machine."""
    named = [("input.path", path) for path in job.input.paths] + [("output.path", job.output.path)]
    for model in job.each_model.values():
        if Path(model.name).is_dir() and model.name.replace("_", "-") not in packaged():
            named.append(("model.name", model.name))
    if job.alarms.against is not None:
        named.append(("alarms.against", job.alarms.against))
    for key, path in named:
        if "://" not in path and not Path(path).is_absolute():
            raise JobError(
                f"{key} {path} is relative: on a cluster it must be a URL, or an absolute path "
                "that every node sees"
            )


def runtime_env(submission: Submission, job: Job, folder: Path) -> dict[str, Any]:
    """Ray's runtime environment for a submission, its files put into a folder."""
    (folder / "job.yaml").write_bytes(submission.path.read_bytes())
    env: dict[str, Any] = {"working_dir": str(folder)}
    if submission.package:
        env["py_modules"] = [str(Path(bertbatch.__file__).parent)]
        # Ray skips what .gitignore names; weights that the job does not use need not travel.
        used = {model.name.replace("_", "-") for model in job.each_model.values()}
        unused = [name for name in packaged() if name not in used]
        env["excludes"] = [
            "__pycache__",
            *(f"model/packaged/{name.replace('-', '_')}" for name in unused),
        ]
    return env


def entrypoint(submission: Submission, job: Job) -> str:
    """The driver's command. Placeholders mean on every try what they meant on the first."""
    changes = [c for c in submission.changes if not c.startswith(("date=", "run="))]
    command = ["python", "-m", "bertbatch", "run", "job.yaml", "--log", "plain"]
    fixed = ["--date", str(job.date), "--run", job.run]
    return shlex.join([*command, *fixed, *(word for c in changes for word in ("--set", c))])


def _client(address: str) -> Any:
    """A client whose cluster has answered, with a token if it asks for one. Raises JobError."""
    if address.startswith("ray://") or not address:
        raise JobError(f"--address '{address}': name the cluster's dashboard, http://HOST:8265")
    logging.getLogger("ray").setLevel(logging.ERROR)  # what it uploads is not the job's doing
    try:
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise JobError(f"submit needs 'bertbatch[cluster]': {error}") from None
    where = f"--address {public(address)}"

    def connect() -> Any:
        try:
            return JobSubmissionClient(address)
        except AuthenticationError:
            # Ray sends a token only where RAY_AUTH_MODE says so; but `ray start` asks for the one
            # that is in the home folder. It goes to the address that the user named.
            token = _token()
        try:
            return JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"})
        except AuthenticationError:
            given = "rejects the token given here" if token else "asks for a token"
            raise JobError(f"{where}: the cluster {given}: {HOW_TO_GIVE_A_TOKEN}") from None

    try:
        return _while_starting(connect, address)
    except JobError:
        raise
    except ConnectionError as error:
        raise JobError(public(f"{where}: no Ray dashboard answers there: {error}")) from None
    except Exception as error:  # Ray's and its HTTP client's, of any type
        raise JobError(public(f"{where}: {first_line(error)}")) from None


def _token() -> str:
    """The token that Ray would find here, or nothing."""
    try:
        return os.environ.get("RAY_AUTH_TOKEN") or token_file().read_text().strip()
    except (OSError, ValueError):
        return ""


def _while_starting(step: Callable[[], T], address: str) -> T:
    """Does what a head refuses for some seconds after it has begun, until it does not."""
    began = time.monotonic()
    said = False
    while True:
        try:
            return step()
        except (RuntimeError, OSError) as error:
            patience = STARTING_SECONDS if _comes_up(error) else 0.0
            if isinstance(error, ConnectionError):
                patience = CONNECT_SECONDS
            if time.monotonic() - began > patience:
                raise
            if not said:
                log.info("%s is not ready yet; trying again", public(address))
                said = True
            time.sleep(POLL_SECONDS)


def _comes_up(error: Exception) -> bool:
    """Whether it is what a head says that has no agent yet: 5xx, or that there is none."""
    words = r"status code 5\d\d|5\d\d Server Error|[Nn]o available agent"
    return re.search(words, str(error)) is not None and "already" not in str(error)


def _send(client: Any, id_: str, submission: Submission, job: Job) -> None:
    with tempfile.TemporaryDirectory(prefix="bertbatch-") as folder:

        def send() -> None:
            client.submit_job(
                entrypoint=entrypoint(submission, job),
                submission_id=id_,
                runtime_env=runtime_env(submission, job, Path(folder)),
                metadata={"output": job.output.path, "job": submission.path.name},
            )

        try:
            _while_starting(send, submission.address)
        except OSError as error:
            raise RunError(public(f"{submission.address} no longer responds: {error}")) from None
        except Exception as error:  # Ray's, of any type
            if "already" in str(error):
                raise JobError(
                    f"there is a submission {id_} already: see `ray job status {id_}`, or give "
                    "another with --id"
                ) from None
            raise JobError(
                public(f"{submission.address} refused the job: {first_line(error)}")
            ) from None


class _LogFollower:
    """Passes on the log of a job until the job ends."""

    def __init__(self, client: Any, id_: str, say: Callable[[str], Any]):
        self._client = client
        self._id = id_
        self._say = say
        self._told = 0  # characters
        self._heard = time.monotonic()
        self._cancelled = False

    def exit_code(self) -> int | None:
        """The job's, once it has ended; None if it left none. Raises RunError if it is lost."""
        while True:
            # The connection may break, or the dashboard restart; the job keeps running.
            with suppress(Exception):
                asyncio.run(self._follow())
            if self._cancelled:  # the client may have made another error of it
                raise KeyboardInterrupt
            try:
                details = self._client.get_job_info(self._id)
            except Exception as error:
                if "does not exist" in str(error):  # another head is there now
                    return None
                if time.monotonic() - self._heard > PATIENCE_SECONDS:
                    raise RunError(
                        f"no response about {self._id} for {PATIENCE_SECONDS:.0f} s: "
                        f"{public(error)}. It may still be running: see `bertbatch status OUTPUT`"
                    ) from None
            else:
                self._heard = time.monotonic()
                if details.status.is_terminal():
                    return self._code(details)
            time.sleep(POLL_SECONDS)

    async def _follow(self) -> None:
        seen = 0  # each connection gives the log from its start
        task = asyncio.current_task()
        try:
            async for text in self._client.tail_job_logs(self._id):
                self._heard = time.monotonic()
                fresh = text[max(self._told - seen, 0) :]
                seen += len(text)
                if fresh:
                    self._say(fresh)
                    self._told = seen
        finally:
            self._cancelled = task is not None and task.cancelling() > 0

    @staticmethod
    def _code(details: Any) -> int | None:
        if details.status in ("SUCCEEDED", "STOPPED"):
            return 0 if details.status == "SUCCEEDED" else STOPPED
        code: int | None = details.driver_exit_code
        if code is None and details.message:
            log.warning("%s: %s", details.status, details.message.strip().splitlines()[-1])
        return code


def _interrupted(client: Any, id_: str, job: Job, ask_to_stop: Callable[[], bool]) -> int:
    if ask_to_stop():
        try:
            client.stop_job(id_)
            while not client.get_job_status(id_).is_terminal():
                time.sleep(POLL_SECONDS)
        except (RuntimeError, OSError) as error:
            raise RunError(f"{id_} may still be running: {public(error)}") from None
        log.warning("%s is stopped; submit it again to resume", id_)
    else:
        log.warning(
            "%s keeps running; see `bertbatch status %s`, stop it with `ray job stop %s`",
            id_,
            job.output.path,
            id_,
        )
    return 130
