"""A row's answer is that of its text alone, whatever the architecture, or the model is refused."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from bertbatch import JobError, run
from bertbatch.engines.batching import Batching
from bertbatch.engines.probe import excess
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from tests.helpers.architectures import (
    HEAD,
    KINDS,
    UNREADABLE,
    features,
    one_at_a_time,
    outcome,
    save,
)
from tests.helpers.jobs import make_job
from tests.helpers.paths import ROOT
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts, settled

DOCS = ROOT / "docs" / "models.md"
# One of each family: how attention is masked, where positions come from, what the head reads.
FAMILIES = [
    *("albert", "bart", "big_bird", "canine", "convbert", "deberta-v2", "fnet", "funnel", "gpt2"),
    *("llama", "longformer", "mobilebert", "modernbert", "mpnet", "nystromformer", "reformer"),
    *("roformer", "xlnet", "yoso"),
]


def documented() -> dict[str, tuple[str, ...]]:
    """What docs/models.md says of each kind."""
    table = DOCS.read_text().partition(HEAD)[2].partition("##")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line[:2] == "| "]
    return {kind: tuple(row[:-1]) for row in rows for kind in row[-1].split(", ")}


def test_every_kind_is_documented():
    assert sorted(documented()) == KINDS


@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in FAMILIES else pytest.param(kind, marks=pytest.mark.sweep)
        for kind in KINDS
        if kind not in UNREADABLE
    ],
)
def test_a_rows_answer_is_that_of_its_text_alone(kind, tmp_path):
    batching, why = outcome(kind, tmp_path / "model")
    assert batching == documented()[kind][0], why


@pytest.mark.sweep
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_kind_can_do_is_as_documented(kind, tmp_path):
    assert features(kind, tmp_path) == documented()[kind]


@pytest.mark.parametrize("kind", sorted(UNREADABLE))
def test_what_needs_more_than_text_is_refused(kind, tiny_model, tmp_path):
    config = json.loads(Path(tiny_model, "config.json").read_text())
    config["model_type"] = kind
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(JobError, match=rf"it reads .*\({kind}\)"):
        check_model(Model(name=str(tmp_path)))


@pytest.mark.parametrize("kind", ["xlnet", "mobilebert", "convbert"])
def test_a_whole_job_agrees_on_rows_of_equal_length(kind, tmp_path, caplog):
    """Text after text, together with others and alone: the same answers, and the log says why."""
    folder = tmp_path / "model"
    save(kind, folder)
    texts = make_texts(80, seed=7)
    write_parquet(tmp_path / "in.parquet", texts)
    keys = {"model.max_length": 60, "runtime.unit_rows": 30}
    with caplog.at_level("INFO", "bertbatch"):
        result = run(make_job(str(folder), tmp_path / "in.parquet", tmp_path / "out", **keys))
    scores = np.stack(result.to_pandas()["scores"])
    wanted = torch.softmax(torch.from_numpy(one_at_a_time(str(folder), texts)), -1).numpy()
    np.testing.assert_allclose(scores, wanted, atol=1e-4)
    assert "batches are of rows of equal length, which is slower" in caplog.text
    (record,) = result.output.runs()
    (kind_of_worker,) = record["chosen"]["kinds"].values()
    assert kind_of_worker["batching"] == "equal_length"
    assert "off by" in kind_of_worker["reason"]


def test_left_padding_and_token_types_are_the_tokenizers(tmp_path):
    """XLNet reads the last token, fills rows up on the left, and its [CLS] has type 2."""
    folder = tmp_path / "model"
    save("xlnet", folder)
    made = json.loads((folder / "tokenizer.json").read_text())
    cls, sep = (
        {"SpecialToken": {"id": id_, "type_id": t}} for id_, t in (("[CLS]", 2), ("[SEP]", 0))
    )
    a, b = ({"Sequence": {"id": id_, "type_id": t}} for id_, t in (("A", 0), ("B", 1)))
    made["post_processor"] |= {"single": [a, sep, cls], "pair": [a, sep, b, sep, cls]}
    (folder / "tokenizer.json").write_text(json.dumps(made))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.save_pretrained(folder)
    texts = make_texts(60, seed=5)
    write_parquet(tmp_path / "in.parquet", texts)
    keys = {"model.max_length": 60}
    result = run(make_job(str(folder), tmp_path / "in.parquet", tmp_path / "out", **keys))
    wanted = torch.softmax(torch.from_numpy(one_at_a_time(str(folder), texts)), -1).numpy()
    np.testing.assert_allclose(np.stack(result.to_pandas()["scores"]), wanted, atol=1e-4)
    (record,) = result.output.runs()
    (chosen,) = record["chosen"]["kinds"].values()
    assert chosen["batching"] == "padded"


def test_what_openvino_cannot_convert_is_an_error(tmp_path):
    level = logging.getLogger().level
    save("ctrl", tmp_path)
    spec = check_model(Model(name=str(tmp_path), max_length=60))
    with pytest.raises(JobError, match=r"openvino cannot run .*; use model.engine: torch"):
        settled(spec, Model(dtype="float32"), "openvino")
    assert logging.getLogger().level == level  # which its converter changes


def test_a_model_that_changes_by_what_it_has_seen_is_refused(tmp_path):
    """BigBird gives up its sparse attention for good when it meets a short batch."""
    save("big_bird", tmp_path)
    with pytest.raises(JobError, match=r"depends on the texts that are scored with it or before"):
        settled(check_model(Model(name=str(tmp_path), max_length=60)), Model(dtype="float32"))


def test_what_one_worker_found_out_holds_for_the_others(tmp_path, monkeypatch):
    """Also where another would find something else."""
    save("mobilebert", tmp_path)
    spec = check_model(Model(name=str(tmp_path), max_length=60))
    first = settled(spec, Model(dtype="float32"))
    known = {"dtype": first.dtype, "batching": first.batching.value, "reason": first.reason}
    known["operators"] = first.operators
    assert known["batching"] == "equal_length"

    def never(*_: Any) -> Any:
        raise AssertionError("tried again")

    monkeypatch.setattr("bertbatch.engines.torch_engine.choose_batching", never)
    other = settled(spec, Model(dtype="float32"), known=known)
    assert (other.batching, other.reason) == (Batching.EQUAL, first.reason)


@pytest.mark.parametrize(
    ("kind", "got", "wanted", "dtype", "too_much"),
    [
        ("single_label_classification", [[5.0, 1.0]], [[5.0, 1.0004]], "float32", False),
        ("single_label_classification", [[5.0, 1.0]], [[5.0, 1.0006]], "float32", True),
        ("single_label_classification", [[5.0, 1.0]], [[5.0, 1.4]], "bfloat16", False),
        ("single_label_classification", [[5.0, 1.0]], [[5.0, 1.6]], "bfloat16", True),
        # each class of a multi-label model stands for itself
        ("multi_label_classification", [[9.0, 1.0]], [[9.0, 1.0002]], "float32", True),
        ("multi_label_classification", [[9.0, 0.0]], [[9.0, 1e-5]], "float32", False),
        # what values have in common hides nothing
        ("regression", [[1000.0], [1001.0]], [[1000.05], [1001.0]], "float32", True),
        ("regression", [[1000.0], [1001.0]], [[1000.005], [1001.0]], "float32", False),
        ("regression", [[1000.0], [1001.0]], [[1000.05], [1001.0]], "bfloat16", True),
        # where large parts cancel out, rounding leaves this much
        ("regression", [[0.03], [0.03001]], [[0.0300003], [0.03001]], "float32", False),
        ("regression", [[0.03], [0.03001]], [[0.030002], [0.03001]], "float32", True),
        ("single_label_classification", [[float("nan"), 1]], [[1.0, 1.0]], "float32", True),
        ("single_label_classification", [[9.0, 1]], [[float("nan"), 1.0]], "float32", False),
    ],
)
def test_answers_too_far_off_are_found(kind, got, wanted, dtype, too_much):
    assert (excess(np.array(got), np.array(wanted), kind, dtype) > 1) is too_much
