"""With `--log json` every line on standard error is a JSON object, however a command ends."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from bertbatch.cli import app
from bertbatch.display.json_lines import asks_for_json
from tests.helpers.paths import ROOT

CHECKED = "from bertbatch.runtime import run as runs\nruns.check_job = lambda job: {said}\n"
NOISE = (
    "import os, subprocess, sys, warnings\n"
    "def noise():\n"
    "    warnings.warn('a library warns')\n"
    "    print('half a line, ', end='', file=sys.stderr)\n"
    "    print('a bar 10 %\\rthe bar is done', file=sys.stderr)\n"
    "    print('{{not json', file=sys.stderr)\n"
    "    os.write(2, b'said in C \\xff\\n')\n"
    "    subprocess.run(['sh', '-c', 'echo a child >&2'])\n"
    "    print('a last line without an end', end='', file=sys.stderr)\n"
    "    {end}\n"
)


def events(words, patch="", code=None):
    """The exit code of a command, and each line that it wrote to standard error."""
    program = f"import sys\nfrom bertbatch.cli import app\n{patch}app()"
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = done.stderr.decode().splitlines()
    found = [json.loads(line) for line in lines]
    assert all({"event", "time", "run"} <= {*one} for one in found)
    return done.returncode, found


@pytest.mark.parametrize(
    ("words", "code", "event", "said"),
    [
        (["run", "{folder}/no.yaml"], 2, "error", "no.yaml: cannot read the job file"),
        (["run", "{folder}/tab.yaml"], 2, "error", "tab.yaml: line 2, column 1: a tab"),
        (["run", "{folder}/keys.yaml"], 2, "error", "unknown key 'inptu'"),
        (["run", "{folder}/alarm.yaml"], 4, "alarm", "no such file or folder"),
        (["run", "{folder}/alarm.yaml", "--set", "date"], 2, "error", "must look like"),
        (["score", "{folder}/no.csv", "{folder}/out"], 2, "error", "no such file or folder"),
        (["score", "{folder}/a.csv", "{folder}/out"], 2, "error", "no text column 'text'"),
        (["score", "{folder}/a.csv", "{folder}/out", "--limit", "x"], 2, "error", "whole number"),
        (["score", "{folder}/a.csv", "{folder}/out", "--nope"], 2, "error", "No such option"),
        (["score", "{folder}/a.csv"], 2, "error", "Missing argument 'OUTPUT'"),
        (["score", "{folder}/a.csv", "s3://b", "--model", "{folder}/m"], 2, "error", ""),
        (["scroe"], 2, "error", "No such"),
    ],
    ids=lambda value: None if isinstance(value, int | str) else " ".join(value)[:60],
)
@pytest.mark.parametrize("style", [["--log", "json"], ["--log=json"]], ids=" ".join)
def test_errors_before_a_run_are_events(words, code, event, said, style, tmp_path):
    (tmp_path / "tab.yaml").write_text("input:\n\tpath: x\n")
    (tmp_path / "keys.yaml").write_text("inptu: {path: x}\noutput: {path: y}\n")
    (tmp_path / "a.csv").write_text("body\nx\n")
    empty = {"input": {"path": str(tmp_path / "no")}, "output": {"path": str(tmp_path / "out")}}
    (tmp_path / "alarm.yaml").write_text(yaml.safe_dump({**empty, "alarms": {"empty_input": True}}))
    words = [word.format(folder=tmp_path) for word in words]
    found = events([*words, *style])
    assert found[0] == code
    assert [(one["event"], one["exit_code"]) for one in found[1]] == [(event, code)]
    assert said in found[1][0]["message"]


@pytest.mark.parametrize(
    ("end", "code", "event", "said"),
    [
        (
            "raise KeyboardInterrupt",
            130,
            "stopped",
            "the same command goes on from what is committed",
        ),
        ("raise runs.RunError('no room')", 3, "error", "no room\ncommitted units are kept"),
        ("raise OSError('gone')", 3, "error", "the storage failed: gone"),
        ("raise RuntimeError('a bug')", 1, "error", "RuntimeError: a bug"),
        ("sys.exit(7)", 7, "stderr", "a last line without an end"),
    ],
)
def test_what_libraries_write_is_an_event_too(end, code, event, said, tmp_path):
    (tmp_path / "a.csv").write_text("text\nx\n")
    patch = NOISE.format(end=end) + CHECKED.format(said="noise()")
    words = ["score", str(tmp_path / "a.csv"), str(tmp_path / "out"), "--log", "json"]
    found = events([*words, "--runner", "inline"], patch)
    assert found[0] == code
    *others, last = found[1]
    assert said in last["message"]
    assert last["event"] == event
    written = [one["message"] for one in others if one["event"] == "stderr"]
    assert [one for one in written if "UserWarning: a library warns" in one]
    for one in ("the bar is done", "{not json", "said in C \\xff", "a child"):
        assert one in written
    assert ("traceback" in last) == (code == 1)
    assert not (tmp_path / "out").exists()


def test_a_run_in_a_child_process_writes_events_alone(tiny_model, corpus, tmp_path):
    words = ["score", str(corpus), str(tmp_path / "out"), "--log", "json", "--model", tiny_model]
    code, found = events(words)
    assert code == 0
    assert found[-1]["event"] == "finished"
    assert len({one["run"] for one in found[1:]}) == 1
    code, found = events([*words, "--text", "id"])
    assert (code, found[-1]["event"]) == (2, "error")


def test_more_than_a_pipe_holds_is_written(tmp_path):
    (tmp_path / "a.csv").write_text("text\nx\n")
    loud = "[print('x' * 999, file=sys.stderr) for _ in range(3000)] and sys.exit(0)"
    words = ["score", str(tmp_path / "a.csv"), str(tmp_path / "out"), "--log", "json"]
    code, found = events([*words, "--runner", "inline"], CHECKED.format(said=loud))
    assert code == 0
    assert sum(one["event"] == "stderr" for one in found) == 3000


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("", False),
        ("score a b --log json", True),
        ("score a b --log=json", True),
        ("score a b --log json --log plain", False),
        ("score a b --log=plain --log json", True),
        ("score a b --log", False),
        ("peek -- --log json", False),
        ("score json --log plain", False),
    ],
)
def test_whether_a_command_line_asks_for_json(words, asked):
    assert asks_for_json(words.split()) == asked


def test_options_are_refused_in_our_own_words(tmp_path):
    for words, said in (
        (["status", "x", "--last", "0"], "must be at least 1; found '0'"),
        (["status", "x", "--last", "many"], "must be a whole number; found 'many'"),
        (["plan", "x", "--device-rate", "fast"], "must be a number; found 'fast'"),
        (["score", "a", "b", "--log", "xml"], "'xml' is not one of 'auto', 'plain', 'json'"),
    ):
        shown = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
        assert shown.exit_code == 2
        assert said in " ".join(shown.stderr.replace("│", " ").split())
        assert not {"Input", "pydantic"} & {*shown.stderr.split()}
