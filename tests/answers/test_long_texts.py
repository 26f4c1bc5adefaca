"""Windows over long texts, against transformers' own windows of each text."""

import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bertbatch import JobError, run
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from tests.helpers.classifiers import JAPANESE, save_japanese
from tests.helpers.embedders import embedder
from tests.helpers.jobs import make_job
from tests.helpers.outputs import predictions, run_and_rescore
from tests.helpers.sources import write_parquet
from tests.helpers.taggers import save_tagger
from tests.helpers.tiny import make_model, make_texts

LENGTH = 24
TEXTS = [*make_texts(40), "", "a b", " ".join(make_texts(20, seed=3))]
NAMES = {0: "anger", 1: "joy", 2: "fear"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    names = {"id2label": NAMES, "label2id": {v: k for k, v in NAMES.items()}}
    return make_model(tmp_path_factory.mktemp("models") / "three", **names)


def scored(model, tmp_path, texts=TEXTS, **keys):
    """The predictions, which verify finds to be those of the model."""
    write_parquet(tmp_path / "in.parquet", texts)
    keys = {"model.long_text": "windows", "model.max_length": LENGTH, **keys}
    job = make_job(str(model), tmp_path / "in.parquet", tmp_path / "out", **keys)
    run_and_rescore(job, len(texts))
    return predictions(tmp_path / "out")


def windows(tokenizer: Any, text: str, stride: int) -> list[list[int]]:
    return tokenizer(
        text, truncation=True, max_length=LENGTH, stride=stride, return_overflowing_tokens=True
    )["input_ids"]


def logits_of(model: Any, rows: list[list[int]]) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate([model(torch.tensor([ids])).logits.numpy() for ids in rows])


def loaded(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    return tokenizer, classifier.eval()


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def one(logits: np.ndarray, combine: str, task: str) -> tuple[np.ndarray, int]:
    """The logits of a row, and the window that decides."""
    if combine in ("first", "longest"):  # all but the last are equally long
        return logits[0], 0
    if combine == "mean":
        mean = logits.mean(0)
        seen = logits[:, mean.argmax()] if task == "single_label" else logits.max(1)
        return mean, int(seen.argmax())
    if task == "single_label":
        best = int(softmax(logits).max(1).argmax())
        return logits[best], best
    return logits.max(0), int(logits.max(1).argmax())


@pytest.mark.parametrize(
    ("combine", "stride", "task", "runner"),
    # Every value, and every pair of values.
    [
        ("mean", None, "single_label", "inline"),
        ("mean", 0, "multi_label", "ray"),
        ("mean", 9, "regression", "inline"),
        ("max", 0, "single_label", "inline"),
        ("max", 9, "multi_label", "inline"),
        ("max", None, "regression", "ray"),
        ("first", 9, "single_label", "ray"),
        ("first", None, "multi_label", "inline"),
        ("first", 0, "regression", "inline"),
        ("longest", None, "single_label", "inline"),
        ("longest", 0, "multi_label", "inline"),
        ("longest", 9, "regression", "ray"),
    ],
)
def test_classes(model, tmp_path, combine, stride, task, runner):
    keys = {"combine": combine, "stride": stride, "task": task, "logits": True}
    keys = {f"model.{key}": value for key, value in keys.items() if value is not None}
    table = scored(model, tmp_path, **keys, **{"runtime.runner": runner})
    tokenizer, classifier = loaded(model)
    most = 0
    for row, text in zip(table.to_pylist(), TEXTS, strict=True):
        shared = int((LENGTH - 2) * 0.25) if stride is None else stride
        made = windows(tokenizer, text, shared)
        wanted, decides = one(logits_of(classifier, made), combine, task)
        np.testing.assert_allclose(row["logits"], wanted, atol=1e-4)
        assert (row["windows"], row["window"]) == (len(made), decides)
        assert row["n_tokens"] == sum(map(len, made))
        assert not row["truncated"]
        if task == "single_label":
            assert row["label"] == NAMES[int(wanted.argmax())]
            np.testing.assert_allclose(row["scores"], softmax(wanted), atol=1e-4)
        elif task == "regression":
            np.testing.assert_allclose(row["values"], wanted, atol=1e-4)
        most = max(most, len(made))
    assert most > 5


@pytest.mark.parametrize("combine", ["mean", "first", "longest"])
def test_vectors(tmp_path, combine):
    folder = embedder(tmp_path, layers="n")
    table = scored(folder, tmp_path, **{"model.combine": combine, "model.stride": 5})
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoder = transformers.AutoModel.from_pretrained(folder).eval()
    for row, text in zip(table.to_pylist(), TEXTS, strict=True):
        made = windows(tokenizer, text, 5)
        with torch.inference_mode():
            each = [encoder(torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in made]
        each = np.stack([(vector / vector.norm()).numpy() for vector in each])
        wanted = each.mean(0) if combine == "mean" else each[0]
        np.testing.assert_allclose(row["embedding"], wanted, atol=1e-4)
        assert row["window"] == (None if combine == "mean" else 0)


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
@pytest.mark.parametrize("tokenizer", ["wordpiece", "bytes", "unigram"])
def test_entities_are_those_of_transformers_pipeline(tmp_path, tokenizer, strategy):
    model = save_tagger(tmp_path / "model", tokenizer)
    made = transformers.AutoTokenizer.from_pretrained(model, model_max_length=LENGTH)
    made.save_pretrained(model)
    texts = [*TEXTS, "Anna Müller moved from Zürich to New York, 田中さんは東京の大学。" * 6]
    keys = {"model.stride": 8, "model.aggregation": strategy}
    table = scored(model, tmp_path, texts, **keys)
    tagger = transformers.pipeline(
        "token-classification", model, aggregation_strategy=strategy, stride=8
    )
    several = 0
    for row, text in zip(table.to_pylist(), texts, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = tagger(text) if text else []
        places = [(e["entity_group"], e["start"], e["end"]) for e in wanted]
        assert [(e["label"], e["start"], e["end"]) for e in row["entities"]] == places
        assert all(e["text"] == text[e["start"] : e["end"]] for e in row["entities"])
        several += row["windows"] > 1 and len(places) > 1
    assert several > 10


def test_head_and_tail(model, tmp_path):
    keys = {"model.long_text": "head_tail", "model.logits": True}
    table = scored(model, tmp_path, **keys)
    tokenizer, classifier = loaded(model)
    head = (LENGTH - 2) // 4
    for row, text in zip(table.to_pylist(), TEXTS, strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert row["truncated"] == (len(ids) > LENGTH - 2)
        if row["truncated"]:
            ids = ids[:head] + ids[-(LENGTH - 2 - head) :]
        whole = [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
        np.testing.assert_allclose(row["logits"], logits_of(classifier, [whole])[0], atol=1e-4)
        assert row["n_tokens"] == len(ids) + 2
    assert "windows" not in table.column_names


def test_entities_of_head_and_tail_are_where_they_say(tmp_path):
    model = save_tagger(tmp_path / "model", "wordpiece")
    texts = ["Anna Müller moved to New York, 田中さんは東京の大学。" * count for count in (1, 2, 5)]
    table = scored(model, tmp_path, texts, **{"model.long_text": "head_tail"})
    rows = table["entities"].to_pylist()
    for text, row in zip(texts, rows, strict=True):
        assert all(e["text"] == text[e["start"] : e["end"]] for e in row)
    assert rows[2][-1]["end"] > len(texts[2]) - 20


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
@pytest.mark.parametrize("tokenizer", ["wordpiece", "bytes", "unigram"])
def test_no_entity_reaches_over_what_is_cut_out(tmp_path, tokenizer, strategy):
    """Where each token is of the same class, the beginning is one entity and the end another."""
    model = save_tagger(tmp_path / "model", tokenizer)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["classifier.bias"][2] = 1000  # I-PER
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    texts = ["Anna-Müller-New-York-" * 20, "Anna Müller moved to New York. " * 20, "a"]
    keys = {"model.long_text": "head_tail", "model.aggregation": strategy}
    rows = scored(model, tmp_path, texts, **keys)["entities"].to_pylist()
    assert [len(row) for row in rows] == [2, 2, 1]
    for text, (head, tail) in zip(texts, rows[:2], strict=False):
        assert head["start"] == 0
        assert head["end"] < tail["start"] - len(text) // 2
        assert tail["end"] >= len(text) - 1


def test_a_tokenizer_in_python(tmp_path):
    model = save_japanese(tmp_path / "model")
    texts = ["".join(JAPANESE) * count for count in range(1, 5)]
    table = scored(model, tmp_path, texts, **{"model.stride": 3, "model.logits": True})
    tokenizer, classifier = loaded(model)
    for row, text in zip(table.to_pylist(), texts, strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        room, made = LENGTH - 2, []
        for start in range(0, len(ids), room - 3):
            made.append(tokenizer.build_inputs_with_special_tokens(ids[start : start + room]))
            if start + room >= len(ids):
                break
        wanted = logits_of(classifier, made).mean(0)
        np.testing.assert_allclose(row["logits"], wanted, atol=1e-4)
        assert row["windows"] == len(made)


def test_statistics_are_means_weighted_by_their_queries(model, tmp_path):
    """Each window's own come from a job on windows: where each word is a token, they are texts."""
    keys = {"attention.statistics": ["entropy", "received_max", "to_sep"]}
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice([*"abcdefgh,."], size)) for size in (0, 3, 22, 23, 40, 200)]
    rows = scored(model, tmp_path, texts, **{"model.stride": 4, **keys}).to_pylist()
    tokenizer, _ = loaded(model)
    cut = [windows(tokenizer, text, 4) for text in texts]
    whole = [tokenizer.decode(ids[1:-1]) for made in cut for ids in made]
    write_parquet(tmp_path / "windows.parquet", whole)
    each_keys = {"model.max_length": LENGTH, **keys}
    run(make_job(str(model), tmp_path / "windows.parquet", tmp_path / "each", **each_keys))
    each = iter(predictions(tmp_path / "each").to_pylist())
    for row, made in zip(rows, cut, strict=True):
        own = [next(each) for _ in made]
        for name in keys["attention.statistics"]:
            counts = np.array([window["attn_queries"][name] for window in own])
            values = np.array([window[f"attn_{name}"] or [0] * 8 for window in own])
            assert row["attn_queries"][name] == counts.sum()
            if counts.sum():
                wanted = (values * counts[:, None]).sum(0) / counts.sum()
                np.testing.assert_allclose(row[f"attn_{name}"], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"stride": 5}, "stride: it is about windows; set model.long_text: windows"),
        ({"combine": "max"}, "combine: it is about windows"),
        ({"long_text": "windows", "combine": "max", "task": "embedding"}, "no maximum; use mean"),
    ],
)
def test_keys_that_do_not_go_together(model, keys, said):
    with pytest.raises(JobError, match=said):
        check_model(Model(name=model, **keys))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"input.text_pair": "id"}, "model.long_text windows reads single texts"),
        ({"model.stride": 22}, "stride 22: windows of 24 tokens have room for 22"),
        ({"input.carry": ["id:windows"]}, "'windows' is an output column"),
    ],
)
def test_jobs_that_cannot_be_are_errors(model, tmp_path, keys, said):
    with pytest.raises(JobError, match=said):
        scored(model, tmp_path, **keys)


def test_a_column_named_window_may_be_carried_where_there_are_none(model, tmp_path):
    keys = {"input.carry": ["id:windows"], "model.long_text": "truncate"}
    assert scored(model, tmp_path, **keys)["windows"].to_pylist() == list(range(len(TEXTS)))


def test_a_text_too_long_to_be_tokenized_whole_is_quarantined(model, tmp_path, monkeypatch):
    monkeypatch.setattr("bertbatch.runtime.stages.MOST_TEXT", 1000)
    texts = ["a b c", "d " * 600, "e f"]
    write_parquet(tmp_path / "in.parquet", texts)
    keys = {"model.long_text": "windows", "model.max_length": LENGTH}
    result = run(make_job(model, tmp_path / "in.parquet", tmp_path / "out", **keys))
    assert result.run.rows_scored == 2
    (reason,) = result.run.reasons
    assert reason == "the text has 1,200 characters, and model.long_text takes up to 1,000"


@pytest.mark.parametrize(
    ("keys", "told"),
    [({}, True), ({"model.long_text": "truncate"}, False), ({"model.long_text": "windows"}, False)],
)
def test_cut_texts_are_told_unless_that_is_chosen(model, tmp_path, caplog, keys, told):
    write_parquet(tmp_path / "in.parquet", make_texts(200))
    keys = {"model.max_length": LENGTH, **keys}
    run(make_job(model, tmp_path / "in.parquet", tmp_path / "out", **keys))
    assert ("% of the texts so far are longer than 24 tokens" in caplog.text) == told


def test_the_column_types(model, tmp_path):
    scored(model, tmp_path)
    (part, *_) = (tmp_path / "out").glob("*.parquet")
    schema = pq.read_schema(part)
    assert (schema.field("windows").type, schema.field("window").type) == (pa.int32(), pa.int32())
