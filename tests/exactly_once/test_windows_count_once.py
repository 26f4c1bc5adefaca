"""Rows of several windows are whole, or in quarantine, or not there yet."""

import json

import numpy as np
import transformers

from tests.helpers.command_line import finish, run_killed_once, start
from tests.helpers.outputs import answers, quarantine, same_answers, sound
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts

WINDOWS = ("--long-text", "windows", "--max-length", "16", "--set", "model.stride=5")


def test_a_killed_run_over_windows_resumes(corpus, tmp_path, tiny_model):
    whole, out = tmp_path / "whole", tmp_path / "out"
    code, text = finish(start(tiny_model, corpus, whole, *WINDOWS, "--runner", "inline"))
    assert code == 0, text
    run_killed_once(tiny_model, corpus, out, *WINDOWS)
    wanted, got = answers(whole), answers(out)
    same_answers(got, wanted)
    assert wanted["windows"].max() > 5
    for name in ("windows", "window", "n_tokens"):
        assert got[name].tolist() == wanted[name].tolist()
    sound(out, rows_scored=600)


def test_one_window_that_kills_its_worker_costs_its_row(tmp_path, tiny_model):
    texts = make_texts(60)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    cut = {"max_length": 16, "stride": 5, "truncation": True, "return_overflowing_tokens": True}
    windows = [tokenizer(text, **cut)["input_ids"] for text in texts]
    bad = next(i for i, made in enumerate(windows) if len(made) > 3 and texts.count(texts[i]) == 1)
    write_parquet(tmp_path / "in.parquet", texts)
    source, out = tmp_path / "in.parquet", tmp_path / "out"
    poison = json.dumps(windows[bad][2])
    code, text = finish(start(tiny_model, source, out, *WINDOWS, FAULT_POISON=poison))
    assert code == 0, text
    (lost,) = quarantine(out)
    assert (lost["row"], lost["id"]) == (bad, bad)
    got = answers(out)
    assert got["id"].tolist() == [i for i in range(60) if i != bad]
    assert got["windows"].tolist() == [len(windows[i]) for i in got["id"]]
    clean = tmp_path / "clean"
    code, text = finish(start(tiny_model, source, clean, *WINDOWS, "--runner", "inline"))
    assert code == 0, text
    wanted = answers(clean).drop(index=bad).reset_index(drop=True)
    np.testing.assert_allclose(np.stack(got["scores"]), np.stack(wanted["scores"]), atol=1e-5)
    sound(out, rows_scored=59)
