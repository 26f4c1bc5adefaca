"""Entities, against transformers' own pipeline."""

import json
import warnings
from collections import Counter

import pyarrow as pa
import pytest
import transformers

from bertbatch import JobError, run
from bertbatch.attention.inspect import inspect_text
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from bertbatch.output.folder import open_output
from tests.helpers.embedders import plain
from tests.helpers.jobs import make_job
from tests.helpers.outputs import run_and_rescore
from tests.helpers.sources import write_parquet
from tests.helpers.taggers import TEXTS, TOKENIZERS, more_texts, save_tagger
from tests.helpers.tiny import make_model, make_texts

ALL_TEXTS = [*TEXTS, *more_texts(60)]
STRATEGIES = ["simple", "first", "average", "max"]


def scored(model, tmp_path, texts=ALL_TEXTS, **keys):
    """The entities of each row, which verify finds to be those of the model."""
    write_parquet(tmp_path / "in.parquet", texts)
    keys = {"model.max_length": 64, **keys}
    job = make_job(model, tmp_path / "in.parquet", tmp_path / "out", **keys)
    table = run_and_rescore(job, len(texts)).to_pandas()
    assert len(table) == len(texts)
    return [list(row) for row in table["entities"]]


def theirs(model, strategy, texts=ALL_TEXTS):
    tagger = transformers.pipeline("token-classification", model, aggregation_strategy=strategy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [tagger(text) if text else [] for text in texts]


def check(found, wanted, texts=ALL_TEXTS, close=1e-4):
    assert sum(map(len, wanted)) > len(texts)
    for text, ours, pipeline in zip(texts, found, wanted, strict=True):
        places = [(e["entity_group"], e["start"], e["end"]) for e in pipeline]
        assert [(e["label"], e["start"], e["end"]) for e in ours] == places, text
        for mine, other in zip(ours, pipeline, strict=True):
            assert abs(mine["score"] - other["score"]) < close
            assert mine["text"] == text[mine["start"] : mine["end"]]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_are_those_of_transformers(tmp_path, tokenizer, strategy):
    model = save_tagger(tmp_path / "model", tokenizer)
    found = scored(model, tmp_path, **{"model.aggregation": strategy})
    check(found, theirs(model, strategy))


@pytest.mark.parametrize(
    ("kind", "engine", "runner", "batching"),
    [
        ("bert", "torch", "ray", "packed"),
        ("roberta", "torch", "inline", "packed"),
        ("distilbert", "torch", "inline", "packed"),
        ("electra", "torch", "inline", "packed"),
        ("bert", "openvino", "inline", "padded"),
        ("deberta-v2", "torch", "inline", "packed"),
        ("rembert", "torch", "inline", "padded"),
        ("distilbert", "openvino", "ray", "padded"),
    ],
)
def test_architectures_engines_and_runners(tmp_path, kind, engine, runner, batching):
    model = save_tagger(tmp_path / "model", "wordpiece", kind)
    keys = {"model.engine": engine, "model.aggregation": "max", "runtime.runner": runner}
    found = scored(model, tmp_path, **keys)
    check(found, theirs(model, "max"))
    (record,) = open_output(str(tmp_path / "out")).runs()
    (chosen,) = record["chosen"]["kinds"].values()
    assert chosen["batching"] == batching


def test_texts_cut_on_the_left_keep_their_places(tmp_path):
    model = save_tagger(tmp_path / "model", "wordpiece")
    path = tmp_path / "model" / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), "truncation_side": "left"}
    path.write_text(json.dumps(settings))
    texts = ["Anna Müller met Bob in Москва. " * 3000, *ALL_TEXTS[:20]]
    check(scored(model, tmp_path, texts), theirs(model, "simple", texts), texts)


def test_in_int8_nearly_all_entities_are_the_same(tmp_path):
    model = save_tagger(tmp_path / "model", "wordpiece", spread=0.2)
    exact = scored(model, tmp_path)
    (tmp_path / "int8").mkdir()
    rounded = scored(model, tmp_path / "int8", **{"model.dtype": "int8"})
    places = [
        Counter((i, e["label"], e["start"], e["end"]) for i, row in enumerate(rows) for e in row)
        for rows in (exact, rounded)
    ]
    same = sum((places[0] & places[1]).values())
    assert same > 0.9 * sum(places[0].values())


def test_labels_are_counted_once_a_row(tmp_path):
    model = save_tagger(tmp_path / "model", "wordpiece")
    rows = scored(model, tmp_path)
    (record,) = open_output(str(tmp_path / "out")).runs()
    wanted = Counter(label for row in rows for label in {entity["label"] for entity in row})
    assert record["this_run"]["labels"] == dict(wanted)
    assert record["this_run"]["unlabelled"] == sum(not row for row in rows)


def test_the_job_may_name_the_classes(tmp_path):
    model = save_tagger(tmp_path / "model", "wordpiece")
    names = ["O", *(f"X{i}" for i in range(6))]
    rows = scored(model, tmp_path, **{"model.labels": names})
    assert {entity["label"] for row in rows for entity in row} <= set(names[1:])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"model.task": "single_label"}, "single_label needs one that ends in ForSequenceClass"),
        ({"model.logits": True}, "logits: token_classification does not use it"),
        ({"model.pooling": "cls"}, "pooling: token_classification does not use it, only embedding"),
        ({"model.top_k": 2}, "top_k: token_classification has no classes"),
        ({"input.text_pair": "id"}, "reads single texts; leave it out, or put columns together"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_an_error_that_says_what_does(tmp_path, keys, said):
    model = save_tagger(tmp_path / "model", "wordpiece")
    write_parquet(tmp_path / "in.parquet", ["a"])
    with pytest.raises(JobError, match=said):
        run(make_job(model, tmp_path / "in.parquet", tmp_path / "out", **keys))


def test_a_classifier_of_texts_is_refused(tiny_model):
    with pytest.raises(JobError, match="needs one that ends in ForTokenClassification"):
        check_model(Model(name=tiny_model, task="token_classification"))


def test_attention_statistics_beside_entities(tmp_path):
    model = save_tagger(tmp_path / "model", "wordpiece")
    write_parquet(tmp_path / "in.parquet", ALL_TEXTS)
    keys = {"attention.statistics": ["entropy"], "model.max_length": 64}
    job = make_job(model, tmp_path / "in.parquet", tmp_path / "out", **keys)
    table = run(job).to_pandas()
    assert table["attn_entropy"].notna().all()
    check([list(row) for row in table["entities"]], theirs(model, "simple"))


def test_a_model_of_entities_among_make_texts(tmp_path):
    """With a tokenizer whose every letter is a token."""
    make_model(tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    model = save_tagger(tmp_path / "tagger", "wordpiece")
    tokenizer.save_pretrained(tmp_path / "tagger")
    texts = make_texts(40)
    check(scored(model, tmp_path, texts), theirs(model, "simple", texts), texts)


def test_the_column_is_readable_without_us(tmp_path):
    model = save_tagger(tmp_path / "model", "wordpiece")
    scored(model, tmp_path)
    (part, *_) = (tmp_path / "out").glob("*.parquet")
    entity = pa.parquet.read_schema(part).field("entities").type.value_type
    assert [field.name for field in entity] == ["label", "start", "end", "text", "score"]


def test_one_text_is_inspected(tmp_path):
    """With its entities; so are vectors, which are an encoder's."""
    model = save_tagger(tmp_path / "model", "wordpiece")
    text = "Anna moved to New York, didn't she?"
    found = inspect_text(Model(name=model), text)
    (row,) = scored(model, tmp_path, [text])
    assert [(e["label"], e["text"]) for e in found.answer["entities"]] == [
        (e["label"], e["text"]) for e in row
    ]
    folder = plain(tmp_path / "encoder")
    assert len(inspect_text(Model(name=str(folder)), text).answer["embedding"]) == 32
    with pytest.raises(JobError, match="reads single texts; give one"):
        inspect_text(Model(name=model), text, text)
