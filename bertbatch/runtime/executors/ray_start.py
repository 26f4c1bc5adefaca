"""Ray for one run: a cluster named by RAY_ADDRESS, or a Ray of its own.

Whatever keeps Ray from starting is one sentence, in less than a minute.
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError
from ray.job_config import JobConfig

import bertbatch
from bertbatch.errors import JobError
from bertbatch.runtime.executors.cpus import available_cores
from bertbatch.runtime.executors.ray_tokens import HOW_TO_GIVE_A_TOKEN, use_own_token
from bertbatch.runtime.scratch import RAY, Scratch
from bertbatch.storage.stores import public

START_SECONDS = 55.0  # for Ray to start here; its own limits are two of 30 s, one after the other
JOIN_SECONDS = 15.0  # to join a cluster that answers: one wait of Ray's takes 40 s and is not cut
CONNECT_SECONDS = 5.0  # for a cluster's address to answer at all
# What a server that speaks gRPC answers with settings of its own (HTTP/2: RFC 9113, 3.4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4


def start_ray(verbose: bool) -> Scratch | None:
    """Joins or starts Ray; the scratch folder of one that was started. Raises JobError."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS", "")
    with _no_paths() as job_config:
        options = {
            "log_to_driver": verbose,
            "logging_level": logging.INFO if verbose else logging.ERROR,
            "job_config": job_config,
        }
        if address in ("", "local"):
            return _start(options)
        _join(address, options)
    return None


def _start(options: dict[str, Any]) -> Scratch:
    use_own_token()
    try:
        # As Ray does, not TMPDIR: the path of a socket may have 107 bytes at most.
        scratch = Scratch(RAY, Path(os.environ.get("RAY_TMPDIR", "/tmp")))
    except OSError as error:
        raise JobError(f"Ray cannot be started here: {error}; see RAY_TMPDIR") from error
    try:
        with _at_most(START_SECONDS), _without_helpers(keep_logs=options["log_to_driver"]):
            ray.init(
                address="local",
                num_cpus=available_cores(),
                include_dashboard=False,
                # By default Ray ends a process that has had no task for a second if there are
                # more than cores, and the next read would import and load its tokenizer anew.
                _system_config={"idle_worker_killing_time_threshold_ms": 600_000},
                _temp_dir=scratch.path,
                **options,
            )
    except (Exception, SystemExit) as error:  # whatever it is: Ray's are of any type
        _shut_down()
        scratch.close(keep=True)
        raise JobError(
            f"Ray cannot be started here: {_said(error)}; its logs are kept in {scratch.path} "
            "until the next run. Is the machine overloaded, or its memory or disk full? "
            "runtime.runner: inline needs no Ray"
        ) from error
    return scratch


def _join(address: str, options: dict[str, Any]) -> None:
    unset = "start the cluster, or unset RAY_ADDRESS to run on this machine alone"
    if address.startswith("ray://"):
        raise JobError(
            f"RAY_ADDRESS {address} is a Ray Client's, which runs do not use: send the job there "
            "with `bertbatch submit`, or name HOST:6379 on a machine of the cluster"
        )
    if not _answers(address):
        raise JobError(f"RAY_ADDRESS {public(address)}: no Ray answers there; {unset}")
    try:
        with _at_most(JOIN_SECONDS):
            ray.init(**options)
    except AuthenticationError as error:
        _shut_down()
        raise JobError(
            f"RAY_ADDRESS {public(address)}: the cluster asks for a token: {HOW_TO_GIVE_A_TOKEN}, "
            "and set RAY_AUTH_MODE=token"
        ) from error
    except (Exception, SystemExit) as error:
        _shut_down()
        raise JobError(f"RAY_ADDRESS {public(address)}: {_said(error)}; {unset}") from error


def _answers(address: str) -> bool:
    """Whether a server of Ray's kind answers at host:port; for other addresses Ray itself knows."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host or os.environ.get("RAY_USE_TLS") == "1":
        return True
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS) as server:
            server.sendall(_PREFACE)
            return server.recv(9)[3:4] == bytes([_SETTINGS])
    except (OSError, OverflowError, UnicodeError):
        return False


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the main thread after so long; elsewhere there is no limit."""
    main = threading.main_thread()
    if threading.current_thread() is not main:
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError(f"it has not started within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    # A thread's signal rather than the process's alarm, which may be somebody's.
    timer = threading.Timer(seconds, lambda: signal.pthread_kill(main.ident or 0, signal.SIGALRM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _no_paths() -> Iterator[JobConfig]:
    """Ray puts the driver's folder and its script's first on the path of its workers, where a
    file `transformers.py` of the user's would be taken for the package. Not here."""
    config = JobConfig()
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # else a job that was submitted
        config._client_job = True  # which has no working folder on this machine, Ray takes it
        ours = Path(bertbatch.__file__).parent.parent
        if ours in (Path.cwd(), Path(sys.path[0]).resolve()):  # a checkout, not installed
            config._py_driver_sys_path.append(str(ours))
    script, sys.argv[:1] = sys.argv[:1], [os.devnull]
    try:
        yield config
    finally:
        sys.argv[:1] = script


@contextmanager
def _without_helpers(keep_logs: bool) -> Iterator[None]:
    """Ray starts an autoscaler, a dashboard's server and a follower of logs, each a process that
    takes a core for about a second before the first worker has one. A run's own Ray has no use for
    them; `keep_logs` keeps the last. There is no public way; where Ray has other names for what
    starts a process, it is started.
    """
    try:
        from ray._private.node import Node
    except ImportError:
        yield
        return
    names = ["start_monitor", "start_api_server", *(["start_log_monitor"] * (not keep_logs))]
    before = {name: vars(Node)[name] for name in names if name in vars(Node)}
    for name in before:
        setattr(Node, name, _start_nothing)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Node, name, method)


def _start_nothing(node: Any, **_: Any) -> None:
    """In the place of a method of Ray's that starts a process."""


def _shut_down() -> None:
    with suppress(Exception):
        ray.shutdown()


def _said(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return public(lines[0].rstrip(".") if lines else type(error).__name__)
