"""What each task makes of a model's outputs, against transformers' logits and the formulas."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertbatch import JobError, run
from bertbatch.checks.rescore import rescore
from bertbatch.checks.verify import verify
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from bertbatch.output.folder import open_output
from bertbatch.output.part import FOOTER_KEY, encode_part
from tests.helpers.jobs import make_job
from tests.helpers.outputs import run_and_rescore
from tests.helpers.reference import raw_logits
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_model, make_texts

TEXTS = make_texts(40)
NAMES = {1: ["relevance"], 2: ["no", "yes"], 4: ["anger", "joy", "fear", "日本"]}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model with so many outputs, made once."""
    made = {}
    for count, names in NAMES.items():
        folder = tmp_path_factory.mktemp("models") / str(count)
        names = dict(enumerate(names))
        made[count] = make_model(folder, id2label=names, label2id={v: k for k, v in names.items()})
    return made


def scored(model, tmp_path, texts=TEXTS, **keys):
    """The predictions, which verify finds to be those of the model."""
    source = tmp_path / "in.parquet"
    write_parquet(source, texts)
    keys = {f"model.{key}": value for key, value in keys.items()}
    job = make_job(model, source, tmp_path / "out", **keys)
    result = run_and_rescore(job, len(texts))
    return result.to_pandas()


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


FORMULAS = {"auto": softmax, "softmax": softmax, "sigmoid": sigmoid, "none": lambda x: x}


@pytest.mark.parametrize(
    ("activation", "top_k", "min_score", "logits"),
    # Every value, and every pair of values.
    [
        ("auto", None, None, False),
        ("auto", 1, 0.6, True),
        ("softmax", 2, None, True),
        ("softmax", None, 0.6, False),
        ("sigmoid", 1, None, False),
        ("sigmoid", 4, 0.6, True),
        ("sigmoid", None, 0.6, True),
        ("none", 2, 0.6, False),
        ("none", None, None, True),
        ("none", 1, None, True),
        ("auto", 2, None, False),
        ("softmax", 1, 0.6, False),
    ],
)
def test_single_label(models, tmp_path, activation, top_k, min_score, logits):
    asked = {"activation": activation, "top_k": top_k, "min_score": min_score, "logits": logits}
    table = scored(models[4], tmp_path, **asked)
    raw = raw_logits(models[4], TEXTS)
    wanted = FORMULAS[activation](raw)
    names = np.array(NAMES[4])
    best = names[wanted.argmax(1)]
    kept = np.full(len(table), True) if min_score is None else wanted.max(1) >= min_score
    assert kept.sum() > 0
    found = [None if pd.isna(label) else label for label in table["label"]]
    assert found == np.where(kept, best, None).tolist()
    np.testing.assert_allclose(table["score"], wanted.max(1), atol=1e-4)
    if top_k is None:
        np.testing.assert_allclose(np.stack(table["scores"]), wanted, atol=1e-4)
    else:
        order = np.argsort(-wanted, 1)[:, :top_k]
        assert [[s["label"] for s in row] for row in table["scores"]] == names[order].tolist()
        found = [[s["score"] for s in row] for row in table["scores"]]
        np.testing.assert_allclose(found, np.take_along_axis(wanted, order, 1), atol=1e-4)
    assert ("logits" in table) == logits
    if logits:
        np.testing.assert_allclose(np.stack(table["logits"]), raw, atol=1e-3)
    (record,) = open_output(str(tmp_path / "out")).runs()
    assert sum(record["this_run"]["labels"].values()) == kept.sum()
    assert record["this_run"]["unlabelled"] == (~kept).sum()


@pytest.mark.parametrize(("top_k", "logits"), itertools.product([None, 1, 3], [False, True]))
def test_multi_label(models, tmp_path, top_k, logits):
    asked = {"task": "multi_label", "top_k": top_k, "logits": logits}
    table = scored(models[4], tmp_path, **asked)
    raw = raw_logits(models[4], TEXTS)
    wanted, names = sigmoid(raw), np.array(NAMES[4])
    assert [list(row) for row in table["labels"]] == [list(names[row > 0.5]) for row in wanted]
    (record,) = open_output(str(tmp_path / "out")).runs()
    assert record["this_run"]["unlabelled"] == (wanted <= 0.5).all(1).sum()
    if top_k is None:
        np.testing.assert_allclose(np.stack(table["scores"]), wanted, atol=1e-4)
    else:
        order = np.argsort(-wanted, 1)[:, :top_k]
        assert [[s["label"] for s in row] for row in table["scores"]] == names[order].tolist()
    assert ("logits" in table) == logits


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("count", [1, 4])
def test_regression(models, tmp_path, count, logits):
    table = scored(models[count], tmp_path, task="regression", logits=logits)
    raw = raw_logits(models[count], TEXTS)
    if count == 1:
        np.testing.assert_allclose(table["value"], raw[:, 0], atol=1e-3)
    else:
        np.testing.assert_allclose(np.stack(table["values"]), raw, atol=1e-3)
    assert ("logits" in table) == logits


def named(model: str, folder: Path, **config) -> str:
    """A copy of a model with more in its config.json."""
    folder.mkdir()
    for path in Path(model).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return str(folder)


OLD = "sbert_ce_default_activation_function"
IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
NEW = {"sentence_transformers": {"activation_fn": IDENTITY}}


@pytest.mark.parametrize(
    ("config", "keys", "formula"),
    [
        ({}, {"task": "cross_encoder"}, sigmoid),
        ({}, {"task": "cross_encoder", "activation": "none"}, FORMULAS["none"]),
        ({OLD: IDENTITY}, {}, FORMULAS["none"]),
        ({OLD: IDENTITY}, {"activation": "sigmoid"}, sigmoid),
        ({"sentence_transformers": {"activation_fn": SIGMOID}}, {}, sigmoid),
        (NEW, {"logits": True}, FORMULAS["none"]),
    ],
)  # fmt: skip
def test_cross_encoders(models, tmp_path, config, keys, formula):
    model = named(models[1], tmp_path / "model", **config)
    table = scored(model, tmp_path, **keys)
    raw = raw_logits(models[1], TEXTS)
    np.testing.assert_allclose(table["score"], formula(raw)[:, 0], atol=1e-3)
    assert "label" not in table
    assert ("logits" in table) == keys.get("logits", False)


def test_a_cross_encoder_scores_pairs(models, tmp_path):
    pairs = make_texts(len(TEXTS), seed=7)
    write_parquet(tmp_path / "in.parquet", TEXTS, pair=pairs)
    keys = {"input.text_pair": "pair", "model.task": "cross_encoder"}
    table = run(make_job(models[1], tmp_path / "in.parquet", tmp_path / "out", **keys)).to_pandas()
    raw = raw_logits(models[1], TEXTS, pairs)
    np.testing.assert_allclose(table["score"], sigmoid(raw)[:, 0], atol=1e-4)


@pytest.mark.parametrize(
    ("count", "config", "task"),
    [
        (1, {}, "regression"),
        (1, {OLD: IDENTITY}, "cross_encoder"),
        (1, {OLD: IDENTITY, "problem_type": "multi_label_classification"}, "multi_label"),
        (2, {}, "single_label"),
        (2, {OLD: IDENTITY}, "single_label"),
        (2, {"problem_type": "multi_label_classification"}, "multi_label"),
        (4, {"problem_type": "regression"}, "regression"),
    ],
)
def test_the_task_is_read_off_the_model(models, tmp_path, count, config, task):
    model = named(models[count], tmp_path / "model", **config)
    assert check_model(Model(name=model)).asked.task == task


@pytest.mark.parametrize(
    ("count", "keys", "said"),
    [
        (2, {"task": "cross_encoder"}, "this model has 2; use model.task: single_label"),
        (2, {"task": "multi_label", "problem_type": "regression"}, "are different tasks; leave"),
        (2, {"top_k": 3}, "top_k 3: .* has 2 classes"),
        (1, {"top_k": 1}, "top_k: regression has no classes"),
        (1, {"task": "cross_encoder", "min_score": 0.5}, "min_score: cross_encoder has no label"),
        (2, {"task": "multi_label", "min_score": 0.5}, "use model.threshold"),
        (2, {"task": "multi_label", "activation": "softmax"}, "of multi_label are by sigmoid"),
        (1, {"activation": "sigmoid"}, "use model.task: cross_encoder"),
        (1, {"task": "cross_encoder", "activation": "softmax"}, "are by sigmoid or none"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_an_error_that_says_what_does(models, count, keys, said):
    with pytest.raises(JobError, match=said):
        check_model(Model(name=models[count], **keys))


def test_an_activation_that_is_not_known_is_named(models, tmp_path):
    model = named(models[1], tmp_path / "model", **{OLD: "torch.nn.modules.activation.Tanh"})
    with pytest.raises(JobError, match=r"Tanh.*set model.activation to sigmoid or none"):
        check_model(Model(name=model))


@pytest.mark.parametrize(
    ("key", "value"),
    [("top_k", 2), ("min_score", 0.5), ("logits", True), ("activation", "sigmoid")],
)
def test_an_output_keeps_to_what_it_was_begun_with(models, tmp_path, key, value):
    source = tmp_path / "in.parquet"
    write_parquet(source, TEXTS)
    run(make_job(models[4], source, tmp_path / "out"))
    with pytest.raises(
        JobError, match=rf"model.{key}: not set in the output, {value!r} in the job"
    ):
        run(make_job(models[4], source, tmp_path / "out", **{f"model.{key}": value}))


@pytest.mark.parametrize(
    "change",
    [
        lambda label: {"joy": "fear"}.get(label, "joy"),
        lambda label: None,
        lambda label: label or "joy",
    ],
)
def test_a_label_that_the_scores_contradict_is_found(models, tmp_path, change):
    """Also where `scores` has one class only, or no label is an answer."""
    scored(models[4], tmp_path, top_k=1, min_score=0.6)
    for path in (tmp_path / "out").glob("*.parquet"):
        table = pq.read_table(path)
        footer = json.loads(pq.read_metadata(path).metadata[FOOTER_KEY])
        at = table.schema.get_field_index("label")
        field = table.schema.field(at)
        labels = pa.array(map(change, table["label"].to_pylist()), pa.string()).cast(field.type)
        path.write_bytes(encode_part(table.set_column(at, field, labels), footer))
    keys = {"model.top_k": 1, "model.min_score": 0.6}
    job = make_job(models[4], tmp_path / "in.parquet", tmp_path / "out", **keys)
    verdict = verify(open_output(str(tmp_path / "out")))
    rescore(job, str(tmp_path / "out"), len(TEXTS), verdict)
    assert any(": label " in problem and " now" in problem for problem in verdict.problems)


def test_columns_are_readable_without_us(models, tmp_path):
    scored(models[4], tmp_path, top_k=2, min_score=0.9)
    (part, *_) = (tmp_path / "out").glob("*.parquet")
    table = pq.read_table(part)
    assert str(table.schema.field("scores").type) == (
        "list<element: struct<label: string, score: float>>"
    )
    assert table["label"].null_count > 0
