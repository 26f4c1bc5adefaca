"""The first job on a cluster, as docs/operations.md has it, and Ray that cannot be had."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import psutil
import pyarrow.parquet as pq
import pytest
import ray
from ray._raylet import AuthenticationTokenLoader

from bertbatch import JobError
from bertbatch.runtime import submit
from bertbatch.runtime.executors import ray_start, ray_tokens
from tests.helpers.paths import ROOT
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts

BIN = Path(sys.executable).parent
GUIDE = (ROOT / "docs" / "operations.md").read_text().split("## The first job on a cluster")[1]


def listening(port: int) -> bool:
    with closing(socket.socket()) as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with closing(socket.socket()) as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Newcomer:
    """Somebody at a machine: a home folder, no variable of Ray's, and where Ray writes."""

    def __init__(self, folder: Path):
        self.home, self.work, self.temporary = folder / "home", folder / "work", folder / "ray"
        for path in (self.home, self.work, self.temporary):
            path.mkdir()
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
            **{"HOME": str(self.home), "PATH": f"{BIN}:{os.environ['PATH']}"},
            **{"RAY_TMPDIR": str(self.temporary), "PYTHONPATH": str(ROOT)},
        }

    def types(self, command: str, **more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["sh", "-c", command], cwd=self.work, env={**self.environment, **more},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280,
        )  # fmt: skip

    def leaves(self) -> None:
        """Ends what was started, by where it writes: Ray's processes rename themselves."""
        mine = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("RAY_TMPDIR") == str(self.temporary):
                    mine.append(process)
        for process in mine:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(mine, 10)


@pytest.fixture
def newcomer():
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # a short path: sockets lie in it
    someone = Newcomer(folder)
    yield someone
    someone.leaves()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "before",
    [
        pytest.param("nothing", marks=pytest.mark.faults),
        *(pytest.param(what, marks=pytest.mark.cluster) for what in ("a token", "a run here")),
    ],
)
def test_the_first_job_runs_as_the_guide_has_it(before, newcomer, corpus, tiny_model):
    """Its job file and its commands, whatever the home folder holds."""
    table = pq.read_table(corpus).slice(0, 60).rename_columns(["review_id", "body"])
    (newcomer.work / "corpus").mkdir()
    pq.write_table(table, newcomer.work / "corpus" / "a.parquet")
    job = re.search(r"```yaml\n(# job.yaml\n.*?)```", GUIDE, re.S)[1]
    job = job.replace("/shared/", f"{newcomer.work}/") + f"model: {{name: {tiny_model}}}\n"
    (newcomer.work / "job.yaml").write_text(job)
    start, submit_ = re.findall(
        r"^\$ (.*)$", re.search(r"```console\n.*?```", GUIDE, re.S)[0], re.M
    )
    assert start == "ray start --head"
    if before == "a token":
        assert newcomer.types("ray get-auth-token --generate").returncode == 0
    elif before == "a run here":
        done = newcomer.types(
            "bertbatch run job.yaml --set output.path=here --set runtime.runner=ray"
        )
        assert done.returncode == 0, done.stderr
    if any(map(listening, (6379, 8265, 52365))):  # another Ray is here
        gcs, dashboard, agent = (free_port() for _ in range(3))
        start += f" --port={gcs} --dashboard-port={dashboard} --dashboard-agent-listen-port={agent}"
        submit_ = submit_.replace("8265", str(dashboard))
    started = newcomer.types(f"{start} --object-store-memory=200000000 --disable-usage-stats")
    assert started.returncode == 0, started.stdout + started.stderr
    done = newcomer.types(submit_)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 rows in = 60 scored + 0 quarantined" in done.stdout
    # A run of its own beside the head: neither is in the other's way.
    beside = newcomer.types(
        "bertbatch run job.yaml --set output.path=beside --set runtime.runner=ray --log plain"
    )
    assert beside.returncode == 0, beside.stderr
    again = newcomer.types(f"{submit_} --set input.limit=60 --run second --id second")
    assert "Traceback" not in again.stderr
    assert again.returncode == 2  # another limit than the output's contract has
    assert "belongs to another job" in again.stdout
    if before == "a token":
        for wrong, says in (("nonsense-" * 8, "rejects the token"), ("", "asks for a token")):
            (newcomer.home / ".ray" / "auth_token").write_text(wrong)
            refused = newcomer.types(submit_)
            assert refused.returncode == 2, refused.stdout + refused.stderr
            assert says in refused.stderr
            assert "~/.ray/auth_token" in refused.stderr
            assert "Traceback" not in refused.stderr


@pytest.mark.cluster
def test_files_called_like_packages_are_not_imported(newcomer):
    """The user's `torch.py` is nothing to Ray's workers, however the command is started."""
    names = ("torch", "transformers", "pyarrow", "tokenizers", "fsspec", "pandas", "ray")
    for name in names:
        (newcomer.work / f"{name}.py").write_text("raise SystemExit('taken for a package')")
    write_parquet(newcomer.work / "in.parquet", make_texts(5))
    for how in ("bertbatch", f"'{sys.executable}' -m bertbatch"):
        done = newcomer.types(f"{how} score in.parquet 'out {how[-4:]}' --log plain")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "5 rows in = 5 scored" in done.stdout
    assert list(newcomer.home.iterdir()) == []  # Ray leaves its token there otherwise


class Answering(BaseHTTPRequestHandler):
    """A dashboard that says what it is told to, request by request."""

    answers: ClassVar[list[tuple[int, str]]] = []

    def do_GET(self):
        status, text = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    do_POST = do_PUT = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def dashboard():
    server = HTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "text", "says"),
    [
        (401, "no", "asks for a token: put the cluster's token"),
        (403, "no", "asks for a token: put the cluster's token"),
        (404, "", "404"),
        (200, "no JSON", "Expecting value"),
        (200, "{}", "ray_version"),
        (200, '{"ray_version": "1.0"}', "1.0"),
        (204, "", "Expecting value"),
    ],
)
def test_what_a_server_answers_is_a_message(status, text, says, dashboard, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    Answering.answers = [(status, text)]
    with pytest.raises(JobError, match=says) as caught:
        submit._client(dashboard)
    assert str(caught.value).startswith(f"--address {dashboard}: ")
    assert "\n" not in str(caught.value)


@pytest.fixture(autouse=True)
def fresh_tokens(monkeypatch):
    """As in a process that has not started Ray: that keeps the token, and says so to the next."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    AuthenticationTokenLoader.instance().reset_cache()
    yield
    AuthenticationTokenLoader.instance().reset_cache()


@pytest.mark.parametrize(
    "address",
    ["", "ray://x:1", "nonsense://x", "http://", "http://[", "ftp://x", "x y", "a\tb"],
)
def test_an_address_that_is_none_is_refused(address, monkeypatch):
    monkeypatch.setattr(submit, "CONNECT_SECONDS", 0)
    with pytest.raises(JobError, match="--address"):
        submit._client(address)


def test_a_head_that_has_just_begun_is_waited_for(dashboard, monkeypatch):
    said = []
    monkeypatch.setattr(submit.log, "info", lambda message, *_: said.append(message))
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.01)
    good = (200, '{"ray_version": "2.60.0"}')
    Answering.answers = [(503, "starting"), (500, "no available agent"), good]
    submit._client(dashboard)
    assert said == ["%s is not ready yet; trying again"]
    monkeypatch.setattr(submit, "STARTING_SECONDS", 0.1)
    Answering.answers = [(503, "starting")]
    with pytest.raises(JobError, match="503"):
        submit._client(dashboard)


@pytest.mark.parametrize("where", ["variable", "file", "home"])
def test_a_token_is_given_where_it_is_asked_for(where, dashboard, monkeypatch, tmp_path):
    seen = []

    def do_GET(self):
        seen.append(self.headers.get("Authorization"))
        self.send_response(200 if seen[-1] == "Bearer secret" else 401)
        self.end_headers()
        self.wfile.write(b'{"ray_version": "2.60.0"}')

    monkeypatch.setattr(Answering, "do_GET", do_GET)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".ray").mkdir()
    path = tmp_path / ("elsewhere" if where == "file" else ".ray/auth_token")
    path.write_text("secret\n")
    if where == "file":
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    if where == "variable":
        path.write_text("another")
        monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    submit._client(dashboard)
    # A process that has started Ray with a token sends it at once.
    assert set(seen) <= {None, "Bearer secret"}
    assert seen[-1] == "Bearer secret"


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1:{closed}", "127.0.0.1:{http}", "127.0.0.1:{silent}", "127.0.0.1:99999"),
        *("no-such-host.invalid:1", "garbage", "http://x"),
    ],
)
def test_a_cluster_that_is_not_there_is_reported(
    address, dashboard, monkeypatch, score, corpus, tmp_path
):
    monkeypatch.setattr(ray_start, "CONNECT_SECONDS", 1.0)
    if ray.is_initialized():
        ray.shutdown()
    Answering.answers = [(200, "hello")]
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        ports = {"closed": free_port(), "http": dashboard.rpartition(":")[2]}
        there = address.format(**ports, silent=silent.getsockname()[1])
        monkeypatch.setenv("RAY_ADDRESS", there)
        began = time.monotonic()
        with pytest.raises(JobError, match="unset RAY_ADDRESS") as caught:
            score(corpus, tmp_path / "out", "ray")
    assert str(caught.value).startswith(f"RAY_ADDRESS {there}: ")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 20
    assert not (tmp_path / "out").exists()


@pytest.fixture
def no_ray(monkeypatch):
    """Plays Ray's part: what raises, or does not end, is its start."""
    if ray.is_initialized():
        ray.shutdown()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    handler = signal.getsignal(signal.SIGALRM)
    yield lambda init: monkeypatch.setattr(ray, "init", init)
    assert signal.getsignal(signal.SIGALRM) == handler


@pytest.mark.parametrize(
    "error",
    [
        Exception("The current node timed out during startup. This could happen.\nMore."),
        ConnectionError("ray start"),
        RuntimeError(""),
        ValueError("x"),
        OSError(28, "No space left on device"),
        SystemExit(1),
        AssertionError(),
    ],
)
def test_ray_that_cannot_start_is_reported(error, no_ray, score, corpus, tmp_path):
    def init(*_, **__):
        raise error

    no_ray(init)
    with pytest.raises(JobError, match="its logs are kept in") as caught:
        score(corpus, tmp_path / "out", "ray")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_ray_that_does_not_end_starting_is_reported(no_ray, score, corpus, tmp_path, monkeypatch):
    no_ray(lambda **_: time.sleep(60))
    monkeypatch.setattr(ray_start, "START_SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(JobError, match="it has not started within 0 s"):
        score(corpus, tmp_path / "out", "ray")
    assert time.monotonic() - began < 20


def test_a_runs_own_token_is_no_business_of_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ray_tokens._GIVEN:
        monkeypatch.delenv(name, raising=False)
    ray_tokens.use_own_token()
    first = os.environ["RAY_AUTH_TOKEN"]
    ray_tokens.use_own_token()
    assert os.environ.pop("RAY_AUTH_TOKEN") == first
    ray_tokens.token_file().parent.mkdir()
    ray_tokens.token_file().write_text("theirs")
    ray_tokens.use_own_token()
    assert "RAY_AUTH_TOKEN" not in os.environ
