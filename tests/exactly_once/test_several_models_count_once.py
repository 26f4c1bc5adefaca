"""A row is scored by all models, or in quarantine, or not there yet."""

import json

import numpy as np
import pytest
import transformers

from tests.helpers.command_line import finish, run_killed_once, start
from tests.helpers.outputs import answers, quarantine, sound
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_model, make_texts


@pytest.fixture(scope="module")
def second(tmp_path_factory) -> str:
    return make_model(tmp_path_factory.mktemp("models") / "second", num_hidden_layers=3)


def options(second: str) -> list[str]:
    """Two models; texts are one sequence of the first and several windows of the second."""
    windows = {"long_text": "windows", "max_length": "16", "stride": "5"}
    sets = [word for key in windows for word in ("--set", f"models.1.{key}={windows[key]}")]
    return ["--model", second, *sets]


def same(got, wanted) -> None:
    assert got["id"].tolist() == wanted["id"].tolist()
    for model in ("tiny", "second"):
        assert got[f"{model}_label"].tolist() == wanted[f"{model}_label"].tolist()
        scores = (np.stack(table[f"{model}_scores"]) for table in (got, wanted))
        np.testing.assert_allclose(*scores, atol=1e-5)
    assert got["second_windows"].tolist() == wanted["second_windows"].tolist()


def test_a_killed_run_of_two_models_resumes(corpus, tmp_path, tiny_model, second):
    whole, out, both = tmp_path / "whole", tmp_path / "out", options(second)
    code, text = finish(start(tiny_model, corpus, whole, *both, "--runner", "inline"))
    assert code == 0, text
    run_killed_once(tiny_model, corpus, out, *both)
    same(answers(out), answers(whole))
    sound(out, rows_scored=600)


@pytest.mark.faults
def test_a_row_that_kills_one_model_costs_itself(tmp_path, tiny_model, second):
    texts = list(dict.fromkeys(make_texts(60)))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    cut = {"max_length": 16, "stride": 5, "truncation": True, "return_overflowing_tokens": True}
    windows = [tokenizer(text, **cut)["input_ids"] for text in texts]
    bad = next(i for i, made in enumerate(windows) if len(made) > 3)
    write_parquet(tmp_path / "in.parquet", texts)
    source, out, both = tmp_path / "in.parquet", tmp_path / "out", options(second)
    poison = json.dumps(windows[bad][2])  # only the second model is given this
    code, text = finish(start(tiny_model, source, out, *both, FAULT_POISON=poison))
    assert code == 0, text
    (lost,) = quarantine(out)
    assert lost["id"] == bad
    clean = tmp_path / "clean"
    code, text = finish(start(tiny_model, source, clean, *both, "--runner", "inline"))
    assert code == 0, text
    same(answers(out), answers(clean).drop(index=bad).reset_index(drop=True))
    sound(out, rows_scored=len(texts) - 1)
