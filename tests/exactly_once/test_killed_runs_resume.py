"""Killed, stopped and poisoned: the same command again ends in the same answers."""

import json
import signal

import psutil
import pytest

from tests.helpers.command_line import Process, finish, start, wait_for_parts
from tests.helpers.outputs import answers, same_answers, sound
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts


def children(process: Process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_a_killed_driver_leaves_no_child(corpus, tmp_path, tiny_model, expected):
    out, options = tmp_path / "out", ("--runner", "auto", "--unit-rows")
    process = start(tiny_model, corpus, out, *options, "10", FAULT_SLEEP="0.2")
    wait_for_parts(out, 3, process)
    (child,) = children(process)
    process.kill()
    finish(process)
    assert not psutil.wait_procs([child], timeout=10)[1]
    assert len(list(out.glob("*.parquet"))) < 60
    code, text = finish(start(tiny_model, corpus, out, *options, "25"))
    assert code == 0, text
    same_answers(answers(out), expected)
    sound(out, rows_scored=600)


@pytest.mark.faults
def test_a_killed_child_costs_no_row(corpus, tmp_path, tiny_model, expected):
    out = tmp_path / "out"
    options = ("--runner", "auto", "--unit-rows", "20")
    process = start(tiny_model, corpus, out, *options, FAULT_SLEEP="0.3")
    wait_for_parts(out, 3, process)
    (child,) = children(process)
    child.kill()
    code, text = finish(process)
    assert code == 0, text
    assert "goes on with Ray" in text
    same_answers(answers(out), expected)
    sound(out, rows_scored=600)


@pytest.mark.faults
def test_a_killed_driver_resumes_with_other_units(corpus, tmp_path, tiny_model, expected):
    out = tmp_path / "out"
    process = start(tiny_model, corpus, out, "--unit-rows", "10", FAULT_SLEEP="0.3")
    wait_for_parts(out, 5, process)
    process.kill()
    process.wait()
    there = len(list(out.glob("*.parquet")))
    assert there < 60
    assert not (out / "_SUCCESS.json").exists()
    code, text = finish(start(tiny_model, corpus, out, "--unit-rows", "25"))
    assert code == 0, text
    there_then = int(text.split(" planned units done before")[0].split()[-3])
    assert there <= there_then < 62
    same_answers(answers(out), expected)
    sound(out, rows_scored=600)
    assert json.loads((out / "_SUCCESS.json").read_text())["rows_scored"] == 600


def test_a_killed_worker_costs_no_row(corpus, tmp_path, tiny_model, expected):
    out = tmp_path / "out"
    process = start(tiny_model, corpus, out, "--unit-rows", "20", FAULT_SLEEP="0.3")
    wait_for_parts(out, 3, process)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if any("Scorer" in word for word in child.cmdline())
    ]
    assert workers
    workers[0].kill()
    code, text = finish(process)
    assert code == 0, text
    assert "a model worker died" in text
    same_answers(answers(out), expected)
    sound(out, rows_scored=600)


@pytest.mark.faults
def test_two_workers_load_two_models_for_a_thousand_units(tmp_path, tiny_model):
    write_parquet(tmp_path / "in.parquet", make_texts(1000))
    loads = tmp_path / "loads"
    options = ("--unit-rows", "1", "--set", "runtime.workers=2")
    source, out = tmp_path / "in.parquet", tmp_path / "out"
    code, text = finish(start(tiny_model, source, out, *options, FAULT_LOADS=str(loads)))
    assert code == 0, text
    assert len(list(out.glob("*.parquet"))) == 1000
    assert len(loads.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("number", "code", "runner"),
    [
        (signal.SIGINT, 130, "inline"),
        (signal.SIGTERM, 143, "inline"),
        (signal.SIGINT, 130, "auto"),
        pytest.param(signal.SIGTERM, 143, "auto", marks=pytest.mark.faults),
    ],
)
def test_a_run_stopped_by_a_signal_says_how_to_go_on(
    number, code, runner, corpus, tmp_path, tiny_model, expected
):
    """A terminal sends Ctrl-C to all processes; so does systemd with SIGTERM."""
    out = tmp_path / "out"
    options = ("--unit-rows", "10", "--runner", runner)
    process = start(tiny_model, corpus, out, *options, FAULT_SLEEP="0.2")
    wait_for_parts(out, 3, process)
    for one in (*children(process), process):
        one.send_signal(number)
    got, text = finish(process)
    assert got == code, text
    assert "run the same command again" in text
    assert "Traceback" not in text
    assert not (out / "_SUCCESS.json").exists()
    code, text = finish(start(tiny_model, corpus, out, *options))
    assert code == 0, text
    same_answers(answers(out), expected)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_stopped_while_it_loads_says_how_to_go_on(number, code, corpus, tmp_path, tiny_model):
    process = start(tiny_model, corpus, tmp_path / "out", "--runner", "auto")
    while "importing PyTorch" not in process.stderr.readline():
        assert process.poll() is None
    (child,) = children(process)
    process.send_signal(number)
    got, text = finish(process)
    assert (got, text) == (code, "stopped: the same command goes on from what is committed\n")
    assert not psutil.wait_procs([child], timeout=10)[1]
    assert not (tmp_path / "out").exists()


@pytest.mark.faults
def test_sigterm_while_the_run_record_is_written_ends_the_run(corpus, tmp_path, tiny_model):
    out = tmp_path / "out"
    process = start(tiny_model, corpus, out, "--unit-rows", "100")
    wait_for_parts(out, 7, process)  # all of them
    process.send_signal(signal.SIGTERM)
    code, text = finish(process)
    assert code in (0, 143), text  # 0: it was over before
    assert "Traceback" not in text
    assert (out / "_SUCCESS.json").exists() == (code == 0)


@pytest.mark.faults
def test_ctrl_c_ends_a_run_on_ray(corpus, tmp_path, tiny_model):
    out = tmp_path / "out"
    process = start(tiny_model, corpus, out, "--unit-rows", "10", FAULT_SLEEP="0.3")
    wait_for_parts(out, 3, process)
    process.send_signal(signal.SIGINT)
    code, text = finish(process)
    assert code == 130, text
    assert "Traceback" not in text
    assert len(list(out.glob("*.parquet"))) < 62
