"""Adapters, against peft's own models; and what does not fit."""

import json
import sys
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers

from bertbatch import JobError
from bertbatch.job.model import Model
from bertbatch.model.loading import load
from bertbatch.model.spec import check_model
from tests.helpers.architectures import save
from tests.helpers.embedders import plain
from tests.helpers.jobs import make_job
from tests.helpers.outputs import predictions, run_and_rescore
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_model, make_texts

TEXTS = make_texts(30)
KINDS = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "FEATURE_EXTRACTION": "AutoModel",
}


def adapted(folder: Path, task: str, classes: int = 3, tokenizer: bool = True) -> Path:
    """An adapter with random weights over a plain encoder."""
    base = plain(folder / "base")
    keys = {} if task == "FEATURE_EXTRACTION" else {"num_labels": classes}
    model = getattr(transformers, KINDS[task]).from_pretrained(base, **keys)
    config = peft.LoraConfig(task_type=task, r=4, target_modules=["query", "value"])
    changed = peft.get_peft_model(model, config)
    torch.manual_seed(2)
    for name, weight in changed.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=0.3)
    changed.save_pretrained(folder / "adapter")
    if tokenizer:
        made = transformers.AutoTokenizer.from_pretrained(base)
        made.save_pretrained(folder / "adapter")
    return folder / "adapter"


def theirs(folder: Path, task: str, classes: int = 3):
    """What peft's model gives for each text: logits, or hidden states."""
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    keys = {} if task == "FEATURE_EXTRACTION" else {"num_labels": classes}
    model = getattr(transformers, KINDS[task]).from_pretrained(base, **keys)
    changed = peft.PeftModel.from_pretrained(model, str(folder)).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    for text in TEXTS:
        made = tokenizer(text, truncation=True, max_length=60, return_tensors="pt")
        with torch.inference_mode():
            yield changed(**made)[0][0].numpy()


def scored(folder: Path, tmp_path: Path, **keys):
    write_parquet(tmp_path / "in.parquet", TEXTS)
    keys = {"model.max_length": 60, **keys}
    job = make_job(str(folder), tmp_path / "in.parquet", tmp_path / "out", **keys)
    run_and_rescore(job, len(TEXTS))
    return predictions(tmp_path / "out").to_pylist()


@pytest.mark.parametrize(
    ("classes", "tokenizer", "runner"),
    [(3, True, "inline"), (2, False, "ray"), (5, False, "inline")],
)
def test_classes(tmp_path, classes, tokenizer, runner):
    folder = adapted(tmp_path, "SEQ_CLS", classes, tokenizer)
    rows = scored(folder, tmp_path, **{"model.logits": True, "runtime.runner": runner})
    for row, wanted in zip(rows, theirs(folder, "SEQ_CLS", classes), strict=True):
        np.testing.assert_allclose(row["logits"], wanted, atol=1e-4)
        assert row["label"] == f"LABEL_{wanted.argmax()}"


def test_vectors(tmp_path):
    folder = adapted(tmp_path, "FEATURE_EXTRACTION")
    for row, hidden in zip(
        scored(folder, tmp_path), theirs(folder, "FEATURE_EXTRACTION"), strict=True
    ):
        np.testing.assert_allclose(row["embedding"], hidden.mean(0), atol=1e-4)


def test_entities(tmp_path):
    folder = adapted(tmp_path, "TOKEN_CLS")
    names = ["O", "B-X", "I-X"]
    rows = scored(folder, tmp_path, **{"model.labels": names})
    wanted = [(logits.argmax(1)[1:-1] > 0).any() for logits in theirs(folder, "TOKEN_CLS")]
    assert [bool(row["entities"]) for row in rows] == wanted


def test_another_adapter_or_base_is_another_model(tmp_path):
    folder = adapted(tmp_path, "SEQ_CLS")
    scored(folder, tmp_path)
    weights = tmp_path / "base" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + b"\0\0\1\0")
    with pytest.raises(JobError, match=r"model.weights"):
        scored(folder, tmp_path)
    weights.write_bytes(whole)
    own = folder / "adapter_model.safetensors"
    own.write_bytes(own.read_bytes()[:-4] + b"\0\0\1\0")
    with pytest.raises(JobError, match=r"model.weights"):
        scored(folder, tmp_path)


def changed(folder: Path, **keys) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"base_model_name_or_path": None}, "holds an adapter that names no base model"),
        ({"base_model_name_or_path": "/nowhere/model"}, "/nowhere/model: no such folder"),
    ],
)
def test_an_adapter_without_its_base_is_refused(tmp_path, keys, said):
    folder = adapted(tmp_path, "SEQ_CLS")
    changed(folder, **keys)
    with pytest.raises(JobError, match=said):
        check_model(Model(name=str(folder)))


def test_an_adapter_of_another_model_is_refused(tmp_path):
    folder = adapted(tmp_path, "SEQ_CLS")
    other = make_model(tmp_path / "other", hidden_size=64)
    changed(folder, base_model_name_or_path=other)
    with pytest.raises(JobError, match="cannot be applied"):
        scored(folder, tmp_path)


def test_an_adapter_of_a_graph_is_refused(tmp_path):
    folder = adapted(tmp_path, "SEQ_CLS")
    (tmp_path / "base" / "model.safetensors").rename(tmp_path / "base" / "model.onnx")
    with pytest.raises(JobError, match=r"no model\.safetensors that the adapter could change"):
        check_model(Model(name=str(folder)))


def test_without_peft_the_extra_is_named(tmp_path, monkeypatch):
    folder = adapted(tmp_path, "SEQ_CLS")
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr("bertbatch.model.adapter.find_spec", lambda name: None)
    with pytest.raises(JobError, match=r"pip install 'bertbatch\[peft\]', or merge it"):
        check_model(Model(name=str(folder)))


def test_modules_beside_an_adapter_are_part_of_the_model(tmp_path):
    folder = adapted(tmp_path, "FEATURE_EXTRACTION")
    modules = [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    rows = scored(folder, tmp_path)
    for row, hidden in zip(rows, theirs(folder, "FEATURE_EXTRACTION"), strict=True):
        np.testing.assert_allclose(row["embedding"], hidden[0], atol=1e-4)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    with pytest.raises(JobError, match=r"model.weights"):
        scored(folder, tmp_path)


def test_rotations_of_an_adapted_model_stay_exact(tmp_path):
    """In half precision they would be wrong by radians at the end of a long text."""
    base = tmp_path / "base"
    save("modernbert", base)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["Wqkv"])
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    changed_model = load(check_model(Model(name=str(tmp_path / "adapter"))), "cpu", "bfloat16")
    kinds = {name: buffer.dtype for name, buffer in changed_model.named_buffers() if "freq" in name}
    assert kinds
    assert set(kinds.values()) == {torch.float32}
    assert {weight.dtype for weight in changed_model.parameters()} == {torch.bfloat16}
