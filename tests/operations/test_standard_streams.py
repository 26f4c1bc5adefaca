"""What is at the other end of the standard streams never changes how a job ends."""

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import yaml

from tests.helpers import terminals
from tests.helpers.paths import ROOT
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_model, make_texts

ALL = ("stdin", "stdout", "stderr")
TERMINALS = {
    "ascii": ({}, "ascii"),
    "closed": (dict.fromkeys(ALL, "closed"), "utf-8"),
    **{kind: ({"stdout": kind, "stderr": kind}, "utf-8") for kind in ("full", "left", "hung up")},
    "closed stdout": ({"stdout": "closed"}, "utf-8"),
    "closed stderr": ({"stderr": "closed"}, "utf-8"),
}
SHOWN = {
    "run": ["run", "{job}", "--log", "plain"],
    "run json": ["run", "{job}", "--log", "json"],
    "run auto": ["run", "{job}"],
    "plan": ["plan", "{job}"],
    "status": ["status", "{out}"],
    "verify": ["verify", "{out}"],
    "attention": ["attention", "{out}", "--to", "{out}/../table.parquet"],
    "compare": ["compare", "{out}", "{out}"],
    "peek": ["peek", "良い abc — „x“", "--model", "{model}"],
}


@pytest.fixture(scope="module")
def server():
    process = subprocess.Popen(
        [sys.executable, terminals.__file__],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    yield process
    process.stdin.close()
    process.wait(20)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A job that says much: labels, a reason and a path that not every terminal can show."""
    folder = tmp_path_factory.mktemp("紙")
    names = {"0": "良い", "1": "café ☃"}
    model = make_model(
        folder / "model", id2label=names, label2id={v: int(k) for k, v in names.items()}
    )
    write_parquet(folder / "入力.parquet", [*make_texts(20), None])
    job = {
        "input": {"path": str(folder / "入力.parquet")},
        "output": {"path": str(folder / "出力")},
        "model": {"name": model, "dtype": "float32", "tokens_per_batch": 512},
        "limits": {"max_quarantined": 1},
        "runtime": {"runner": "inline"},
        "attention": {},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder


@pytest.fixture
def at(server, told):
    """Runs a command at a terminal: its exit code, and what it could say there."""

    def go(arguments, streams, encoding="utf-8"):
        where = {"job": told / "job.yaml", "out": told / "出力", "model": told / "model"}
        words = [word.format(**where) for word in arguments]
        asked = {"arguments": words, "streams": streams, "encoding": encoding}
        server.stdin.write(json.dumps({**asked, "folder": str(told)}) + "\n")
        server.stdin.flush()
        code, out, err = json.loads(server.stdout.readline())
        assert "Traceback" not in out + err, out + err
        assert "Logging error" not in err, err
        return code, out, err

    return go


@pytest.mark.parametrize(
    ("terminal", "style"),
    [
        ("ascii", "plain"),
        ("closed", "auto"),
        ("full", "json"),
        ("left", "plain"),
        ("hung up", "auto"),
    ],
)
def test_a_job_is_done_whoever_listens(terminal, style, at, told):
    out = told / f"{terminal} {style}"
    code, said, _ = at(
        ["run", "{job}", "--set", f"output.path={out}", "--log", style], *TERMINALS[terminal]
    )
    assert code == 0
    assert json.loads((out / "_SUCCESS.json").read_text())["rows_scored"] == 20
    (part,) = out.glob("*.parquet")
    assert pq.read_table(part).num_rows == 20
    if terminal == "ascii":
        assert "20 scored + 1 quarantined" in said
        assert r"\u826f\u3044" in said


@pytest.mark.parametrize("command", SHOWN)
def test_every_command_at_every_terminal(command, at, told):
    if not (told / "出力" / "_SUCCESS.json").exists():
        assert at(["run", "{job}"], {})[0] == 0
    wanted, out, err = at(SHOWN[command], {})
    assert wanted == 0, out + err
    for name, (streams, encoding) in TERMINALS.items():
        code, _, _ = at(SHOWN[command], streams, encoding)
        assert code == 0, name


@pytest.mark.parametrize("arguments", [["run", "{job}.none"], ["nonsense"]])
def test_a_wrong_command_is_wrong_at_every_terminal(arguments, at):
    for name, (streams, encoding) in TERMINALS.items():
        code, _, _ = at(arguments, streams, encoding)
        assert code == 2, name


def test_a_full_disk_behind_the_output_is_reported(at):
    _, _, err = at(["plan", "{job}"], {"stdout": "full"})
    assert "standard output cannot be written" in err
    _, _, err = at(["plan", "{job}"], {"stdout": "left"})
    assert err == ""


def test_a_file_does_not_take_a_closed_streams_number(at, told):
    """What a library prints would be written into it."""
    table = told / "closed.parquet"
    assert at(["attention", "{out}", "--to", str(table)], dict.fromkeys(ALL, "closed"))[0] == 0
    assert pq.read_table(table).num_rows


@pytest.mark.parametrize("shell", [">/dev/full", "<&- >&- 2>&-", "| head -c 1"])
def test_the_interpreters_own_streams_end_quietly(shell):
    """Through a shell, to the interpreter's end."""
    words = f"'{sys.executable}' -m bertbatch"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} --help {shell}"],
        capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr
    assert "Traceback" not in done.stderr
