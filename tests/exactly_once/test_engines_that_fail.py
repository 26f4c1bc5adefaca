"""Rows and engines that fail: killed workers, memory that does not suffice, calls that raise."""

import json
import signal

import pandas as pd
import pyarrow as pa
import pytest
from transformers import AutoTokenizer

from tests.helpers.command_line import finish, start
from tests.helpers.outputs import answers, same_answers, sound
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts


def in_quarantine(out) -> list[dict]:
    files = sorted((out / "_bertbatch" / "quarantine").iterdir())
    return [row for file in files for row in pa.ipc.open_file(file).read_all().to_pylist()]


KILLED, CRASHED = str(int(signal.SIGKILL)), str(int(signal.SIGSEGV))  # as out of memory, as a bug
MORE_DEATHS = [("auto", "gpu"), *(("ray", death) for death in ("0", "gpu", KILLED, CRASHED))]


@pytest.mark.parametrize(
    ("runner", "death"),
    [
        ("auto", "0"),  # of itself: first the child process, then Ray's workers
        *(pytest.param(runner, death, marks=pytest.mark.faults) for runner, death in MORE_DEATHS),
    ],
)
def test_a_poison_row_costs_only_itself(runner, death, tmp_path, tiny_model, score):
    texts = make_texts(300)
    texts[123] = "zzz"
    write_parquet(tmp_path / "in.parquet", texts)
    score(tmp_path / "in.parquet", tmp_path / "expected", **{"input.carry": ["id"]})
    expected = answers(tmp_path / "expected")
    out = tmp_path / "out"
    poison = json.dumps(AutoTokenizer.from_pretrained(tiny_model)("zzz")["input_ids"])
    faults = {"FAULT_POISON": poison, "FAULT_DEATH": death}
    options = ("--unit-rows", "150", "--runner", runner)
    code, text = finish(start(tiny_model, tmp_path / "in.parquet", out, *options, **faults))
    assert code == 0, text
    assert (text.count("goes on with Ray") == 1) == (runner == "auto")
    same_answers(answers(out), expected.drop(123).reset_index(drop=True))
    (row,) = in_quarantine(out)
    assert (row["row"], row["id"]) == (123, 123)
    how = "lost its GPU (CUDA error: device-side assert triggered)" if death == "gpu" else "died"
    assert row["reason"] == f"its model worker {how} each time"
    sound(out, rows_scored=299, rows_quarantined=1)


def test_a_lost_gpu_ends_an_inline_run(tmp_path, tiny_model):
    """There is no other process to go on; what is committed is kept, and Ray can go on."""
    texts = make_texts(300)
    texts[123] = "zzz"
    write_parquet(tmp_path / "in.parquet", texts)
    out = tmp_path / "out"
    poison = json.dumps(AutoTokenizer.from_pretrained(tiny_model)("zzz")["input_ids"])
    options = ("--unit-rows", "30", "--runner", "inline")
    faults = {"FAULT_POISON": poison, "FAULT_DEATH": "gpu"}
    code, text = finish(start(tiny_model, tmp_path / "in.parquet", out, *options, **faults))
    assert code == 3, text
    assert "can no longer use its GPU (CUDA error: device-side assert triggered)" in text
    assert "runtime.runner: ray" in text
    assert "Traceback" not in text
    assert not list((out / "_bertbatch" / "quarantine").glob("*"))
    code, text = finish(start(tiny_model, tmp_path / "in.parquet", out, *options))
    assert code == 0, text
    sound(out, rows_scored=300, rows_quarantined=0)


RUNNERS = ["inline", pytest.param("ray", marks=pytest.mark.faults)]


@pytest.mark.parametrize("runner", RUNNERS)
def test_an_engine_that_raises_now_and_then_costs_no_row(
    runner, corpus, tmp_path, tiny_model, expected
):
    """On its third call in each process: the same rows are scored by another call."""
    out, raised = tmp_path / "out", tmp_path / "raised"
    options = ("--runner", runner, "--unit-rows", "30")
    faults = {"FAULT_RAISE": "3", "FAULT_RAISED": str(raised)}
    code, text = finish(start(tiny_model, corpus, out, *options, **faults))
    assert code == 0, text
    assert raised.exists()
    same_answers(answers(out), expected)
    sound(out, rows_scored=600, rows_quarantined=0)


@pytest.mark.parametrize("runner", RUNNERS)
def test_out_of_memory_costs_rows_that_are_too_large_alone(
    runner, corpus, tmp_path, tiny_model, expected
):
    """Batches are halved down to single rows; those of over 55 tokens fit no more."""
    out = tmp_path / "out"
    options = ("--runner", runner, "--set", "limits.max_quarantined=1")
    code, text = finish(start(tiny_model, corpus, out, *options, FAULT_MEMORY="55"))
    assert code == 0, text
    fits = expected["n_tokens"] <= 55
    assert 0 < fits.sum() < 600
    same_answers(answers(out), expected[fits].reset_index(drop=True))
    bad = pd.DataFrame(in_quarantine(out))
    assert sorted(bad["id"]) == expected["id"][~fits].tolist()
    assert all("memory" in reason for reason in bad["reason"])
    sound(out, rows_scored=fits.sum(), rows_quarantined=600 - fits.sum())
