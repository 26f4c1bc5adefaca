"""What is shown while a job runs: at any width, after a resume, in a notebook, in time."""

import fcntl
import io
import json
import logging
import os
import pty
import random
import re
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress

import pytest
from rich.console import Console

import bertbatch
from bertbatch import run
from bertbatch.display.progress import WIDE, PlainLines, make_listener
from bertbatch.display.progress_bar import ProgressBar
from bertbatch.runtime import scheduler
from bertbatch.runtime.result import ProgressListener
from tests.helpers.command_line import invoke
from tests.helpers.jobs import make_job
from tests.helpers.outputs import sound
from tests.helpers.paths import ROOT
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts


def drawn(width: int, figures: dict | None = None, phase: str = "") -> str:
    """The line at this width."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    bar = ProgressBar(console)
    if phase:
        bar.phase(phase)
    if figures:
        bar.show(figures)
    console.print(*bar._progress.get_renderables(), end="")
    return console.file.getvalue().strip("\n")


def figures(draw: random.Random) -> dict:
    planned = draw.choice([1, 90, 8000, 10**6, 10**10])
    rate = draw.choice([0.1, 7.3, 99.6, 2345.6, 1e6])
    rows = draw.randrange(planned + 1)
    return {
        "rows": rows, "rows_planned": planned, "rows_per_second": rate,
        "tokens_per_second": round(rate * 200), "units": rows // 70, "units_planned": planned // 70,
        "quarantined": draw.choice([0, 5, 12_345]),
        "bottleneck": draw.choice(["", "reading", "scoring", "waiting for workers"]),
        "eta_seconds": draw.choice([None, 0, 59, 3599, 47 * 3600, 10**6]),
    }  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_what_matters_most_fits_any_width(width):
    draw = random.Random(width)
    for _ in range(200):
        f = figures(draw)
        line = drawn(width, f)
        assert "\n" not in line
        assert len(line.rstrip()) < width
        assert re.search("[━╸╺ ]{8}", line)
        assert f"{100 * f['rows'] / f['rows_planned']:.0f}%" in line
        assert "/s" in line
        if f["eta_seconds"] is not None:
            assert re.search(r"\d+ (s|min|h|days? \d+ h)( left)?( |$)", line)
        if width >= 120 and f["rows_planned"] < 10**7:
            assert f"{f['rows']:,}/{f['rows_planned']:,} row" in line
    line = drawn(width, phase="starting Ray")
    assert "starting Ray 0 s" in line
    assert len(line.rstrip()) < width


@pytest.mark.parametrize("width", [40, 80])
def test_a_terminal_shows_one_line(width, tiny_model, tmp_path):
    write_parquet(tmp_path / "x.parquet", make_texts(3000))
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    words = ["score", str(tmp_path / "x.parquet"), str(tmp_path / "out"), "--model", tiny_model]
    words += ["--runner", "inline", "--unit-rows", "20"]
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "bertbatch", *words], cwd=ROOT, env=environment,
        stdin=there, stdout=there, stderr=there,
    )  # fmt: skip
    os.close(there)
    shown = b""
    with suppress(OSError):  # the end of a terminal
        while piece := os.read(here, 1 << 16):
            shown += piece
    assert process.wait() == 0
    frames = re.split(r"\r\n|\r|\n|\x1b\[2K|\x1b\[\d*A", shown.decode())
    frames = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame) for frame in frames]
    bars = [frame for frame in frames if "━" in frame]
    assert any("%" in bar and "/s" in bar for bar in bars), bars[-20:]
    assert any("loading the model" in bar for bar in bars)
    assert max(len(bar.rstrip()) for bar in bars) < width
    time_of_day = re.compile(r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}\]")
    assert any(map(time_of_day.match, frames)) == (width >= WIDE)  # they leave no room
    assert "".join(frames).replace(" ", "").endswith(str(tmp_path / "out"))  # nothing is cut off


def test_json_lines_tell_phases_and_times(tiny_model, corpus, tmp_path):
    words = ("score", str(corpus), str(tmp_path / "out"), "--model", tiny_model)
    code, said = invoke(*words, "--runner", "inline", "--log", "json")
    assert code == 0
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert {"phase", "log", "progress", "finished"} == {line["event"] for line in lines}
    phases = [line["phase"] for line in lines if line["event"] == "phase"]
    assert phases == ["importing PyTorch", "loading the model", "trying out batches"]
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]{12}[+-]\d\d:\d\d", line["time"])
    assert {line["bottleneck"] for line in lines if line["event"] == "progress"} <= {
        "scoring", "reading", "committing", "waiting for workers",
    }  # fmt: skip


class Shares(ProgressListener):
    def __init__(self):
        self.seen = []

    def progressed(self, totals, unit=None):
        f, self.totals = totals.progress(1), totals
        self.seen.append((f["rows"], f["rows_planned"]))


def test_a_resumed_run_shows_the_whole(tiny_model, corpus, tmp_path):
    job = make_job(tiny_model, corpus, tmp_path / "out", **{"runtime.unit_rows": 20})
    run(job)
    parts = sorted((tmp_path / "out").glob("part-*"))
    for part in parts[:10]:
        part.unlink()
    seen = Shares()
    result = run(job, seen)
    before = 600 - result.run.rows
    assert seen.seen[0][0] > before > 0
    assert seen.seen[-1] == (600, 600)
    assert {planned for _, planned in seen.seen} == {600}


def test_rows_scored_again_are_counted_once(tiny_model, tmp_path):
    texts = [None if i % 5 == 0 else text for i, text in enumerate(make_texts(100))]
    write_parquet(tmp_path / "x.parquet", texts)
    keys = {"limits.max_quarantined": 1, "runtime.unit_rows": 20}
    run(make_job(tiny_model, tmp_path / "x.parquet", tmp_path / "out", **keys))
    again, seen = {**keys, "runtime.retry_quarantined": True}, Shares()
    assert run(
        make_job(tiny_model, tmp_path / "x.parquet", tmp_path / "out", **again), seen
    ).run.rows
    assert set(seen.seen) == {(100, 100)}
    totals = seen.totals.progress(1)
    assert totals["units"] == totals["units_planned"] == 10


def test_each_reason_is_told_once_as_it_comes(tiny_model, tmp_path, caplog):
    write_parquet(tmp_path / "x.parquet", [None, *make_texts(50), None, None])
    keys = {"limits.max_quarantined": 1, "runtime.unit_rows": 10}
    with caplog.at_level(logging.INFO, "bertbatch"):
        run(make_job(tiny_model, tmp_path / "x.parquet", tmp_path / "out", **keys))
    assert caplog.text.count("quarantined: text is null") == 1


def test_a_run_ends_in_time(tiny_model, corpus, tmp_path, monkeypatch):
    keys = {"runtime.unit_rows": 5, "limits.max_hours": 0.001}
    job = make_job(tiny_model, corpus, tmp_path / "out", **keys)
    from bertbatch.runtime import stages

    commit = stages.commit
    monkeypatch.setattr(stages, "commit", lambda *a: (time.sleep(0.1), commit(*a))[1])
    monkeypatch.setattr("bertbatch.runtime.run.END_SECONDS", 0.0)
    began = time.monotonic()
    result = run(job)
    assert 3.6 < time.monotonic() - began < 3.6 + scheduler.GRACE_SECONDS
    assert result.exit_code == 3
    left = 600 - result.run.rows
    assert f"limits.max_hours (0.001) is over: {left} of 600 planned rows are left" in result.advice
    sound(tmp_path / "out", rows_scored=result.run.rows)
    monkeypatch.undo()
    more = make_job(tiny_model, corpus, tmp_path / "out", **{**keys, "limits.max_hours": 1})
    assert run(more).exit_code == 0


@pytest.mark.parametrize("there", [False, True])
def test_a_run_without_time_is_not_complete(there, tiny_model, corpus, tmp_path):
    """The time may be over before the first source is planned."""
    job = make_job(tiny_model, corpus, tmp_path / "out", **{"limits.max_hours": 1e-9})
    if there:
        run(make_job(tiny_model, corpus, tmp_path / "out"))
        write_parquet(corpus / "new.parquet", make_texts(9))
    try:
        result = run(job)
    finally:
        (corpus / "new.parquet").unlink(missing_ok=True)
    assert result.exit_code == 3
    assert "not planned yet; raise it: " in result.advice
    assert (tmp_path / "out" / "_SUCCESS.json").exists() is False


def test_a_result_is_short_and_escaped(tiny_model, corpus, tmp_path):
    out = tmp_path / "<b>out"
    result = run(make_job(tiny_model, corpus, out))
    assert repr(result) == (
        f"<Result {out}: exit code 0, 600 rows in = 600 scored + 0 quarantined>"
    )
    assert "&lt;b&gt;out" in result._repr_html_()
    assert "<b>out" not in result._repr_html_()


def test_a_notebook_gets_plain_lines(tiny_model, corpus, tmp_path, monkeypatch, capsys):
    class ZMQInteractiveShell:
        """As IPython names the shell of a kernel."""

    class IPython:
        get_ipython = staticmethod(ZMQInteractiveShell)

    monkeypatch.setitem(sys.modules, "IPython", IPython)
    job = make_job(tiny_model, corpus, tmp_path / "out")
    bertbatch.run(job)
    said = capsys.readouterr().out
    assert "600/600 rows" in said
    assert "\x1b" not in said
    monkeypatch.undo()
    logging.getLogger("bertbatch").handlers.clear()
    bertbatch.run(make_job(tiny_model, corpus, tmp_path / "quiet"))
    assert capsys.readouterr().out == ""


def test_a_log_file_gets_plain_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(make_listener("auto"), PlainLines)
    logging.getLogger("bertbatch").handlers.clear()
