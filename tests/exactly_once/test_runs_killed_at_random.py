"""Killed at random, again and again, whatever it was doing: nothing is lost and nothing doubled.

Seeded, so that a failure can be repeated; BERTBATCH_ROUNDS says how often to kill.
"""

import os
import random
import re
import signal
import time
from contextlib import suppress

import psutil
import pytest

from tests.helpers.command_line import finish, start, wait_for_parts
from tests.helpers.outputs import answers, same_answers, sound

ROUNDS = int(os.environ.get("BERTBATCH_ROUNDS", "200"))


@pytest.mark.faults
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("runner", "share", "more"),
    [
        ("inline", 0.5, ()),
        ("inline", 0.2, ("--set", "input.dedupe=corpus")),
        ("ray", 0.07, ()),
    ],
)
def test_a_run_killed_at_random_loses_and_doubles_nothing(
    runner, share, more, corpus, tmp_path, tiny_model, expected
):
    """The driver; or on Ray one after the other of all its processes, until the run ends."""
    rng = random.Random(runner)
    out, kills, outputs = tmp_path / "out", 0, 0
    options = ("--runner", runner, "--unit-rows", "5", *more)
    sleep = "0.02" if runner == "inline" else "0.2"
    # Most of a run on Ray is its start: what matters comes after some seconds.
    least, most, pause = 4.0, 16.0, 3.0
    if runner == "inline":  # at any moment of a run
        began = time.monotonic()
        code, said = finish(
            start(tiny_model, corpus, tmp_path / "whole", *options, FAULT_SLEEP=sleep)
        )
        assert code == 0, said
        least, most, pause = 0.0, time.monotonic() - began, 0.1
    while kills < share * ROUNDS:
        process = start(tiny_model, corpus, out, *options, FAULT_SLEEP=sleep)
        time.sleep(rng.uniform(least, most))
        while process.poll() is None:
            time.sleep(pause * rng.expovariate(1))
            with suppress(psutil.NoSuchProcess, IndexError):
                victims = [psutil.Process(process.pid)]
                victims += victims[0].children(recursive=True)
                # Ray ends as a whole with most of its own processes: more of those at work.
                workers = [v for v in victims if re.match(r"ray::(?!\w*Agent)", v.cmdline()[0])]
                rng.choice(workers if workers and rng.random() < 0.8 else victims).kill()
                kills += 1
        code, said = finish(process)
        if runner == "inline":  # Ray's own end, its raylet killed, is not ours to word
            assert "Traceback" not in said, said
            assert code in (0, -9), said
        if (out / "_bertbatch" / "job.yaml").exists():
            sound(out)
        if (out / "_SUCCESS.json").exists():
            sound(out, rows_scored=600)
            same_answers(answers(out), expected)
            out, outputs = tmp_path / f"out{outputs}", outputs + 1  # begin anew
    there = len(list(out.glob("*.parquet")))
    code, said = finish(start(tiny_model, corpus, out, *options))
    assert code == 0, said
    sound(out, rows_scored=600)
    same_answers(answers(out), expected)
    print(f"{kills} kills, {outputs} outputs finished under them, {there} parts then")


@pytest.mark.faults
def test_a_run_stopped_while_another_finishes_doubles_nothing(
    corpus, tmp_path, tiny_model, expected
):
    """A run that sleeps (SIGSTOP) and wakes when another has done all finds nothing to do."""
    out = tmp_path / "out"
    options = ("--runner", "inline", "--unit-rows", "10")
    sleeper = start(tiny_model, corpus, out, *options, FAULT_SLEEP="0.2")
    wait_for_parts(out, 3, sleeper)
    sleeper.send_signal(signal.SIGSTOP)
    shared = ("--set", "runtime.on_busy=share")
    code, said = finish(start(tiny_model, corpus, out, *options, *shared))
    assert code == 0, said
    assert "is also working on this output" in said
    parts = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    sleeper.send_signal(signal.SIGCONT)
    code, said = finish(sleeper)
    assert code == 0, said
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")} == parts
    sound(out, rows_scored=600)
    same_answers(answers(out), expected)


@pytest.mark.faults
def test_two_runs_at_once_lose_and_double_nothing(corpus, tmp_path, tiny_model, expected):
    out = tmp_path / "out"
    options = ("--runner", "inline", "--unit-rows", "10", "--set", "runtime.on_busy=share")
    both = [start(tiny_model, corpus, out, *options, FAULT_SLEEP="0.05") for _ in range(2)]
    for process in both:
        code, said = finish(process)
        assert code == 0, said
    sound(out, rows_scored=600)
    same_answers(answers(out), expected)
