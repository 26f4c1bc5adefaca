"""Several models in one pass: each answers as in a job of its own."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers
from typer.testing import CliRunner

from bertbatch import Job, JobError, attention_array, load_attention, run
from bertbatch.attention.comparison import compare_outputs
from bertbatch.checks.rescore import rescore
from bertbatch.checks.verify import verify
from bertbatch.cli import app
from bertbatch.engines import scoring
from bertbatch.job.model import Model
from bertbatch.job.models import column_of
from bertbatch.model.spec import check_model
from bertbatch.model.tokenizer import Tokenizer
from bertbatch.output.folder import open_output
from tests.helpers.classifiers import save_roberta
from tests.helpers.embedders import embedder
from tests.helpers.outputs import predictions, quarantine
from tests.helpers.paths import ROOT
from tests.helpers.sources import write_parquet
from tests.helpers.taggers import save_tagger
from tests.helpers.tiny import make_model, make_texts

TEXTS = make_texts(120)
NLI = {"id2label": {0: "entailment", 1: "other"}, "label2id": {"entailment": 0, "other": 1}}
FIXED = {"engine": "torch", "dtype": "float32", "tokens_per_batch": 512, "max_length": 48}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """One model for each task, with three kinds of tokenizer among them."""
    folder = tmp_path_factory.mktemp("several")
    tiny = make_model(folder / "tiny")
    other = make_model(folder / "other", num_attention_heads=2, num_hidden_layers=3)
    return {
        "one": {"name": tiny, "logits": True},
        "two": {"name": other, "max_length": 24},
        "wide": {"name": tiny, "long_text": "windows", "max_length": 16, "stride": 4},
        "tags": {"name": save_tagger(folder / "tagger", "unigram"), "task": "token_classification"},
        "vector": {"name": str(embedder(folder / "embedder")), "embedding_type": "float16"},
        "values": {"name": make_model(folder / "values", problem_type="regression")},
        "about": {
            **{"name": make_model(folder / "nli", **NLI), "task": "zero_shot"},
            **{"candidate_labels": ["a", "b c", "d"], "multi_label": True},
        },
        "roberta": {"name": save_roberta(folder / "roberta"), "top_k": 2},
    }


@pytest.fixture
def source(tmp_path) -> Path:
    write_parquet(tmp_path / "in.parquet", TEXTS)
    return tmp_path / "in.parquet"


def several(models: dict[str, Any], source: Path, out: Path, **sections: Any) -> Job:
    return Job.build(
        {
            "input": {"path": str(source), "carry": ["id"]},
            "output": {"path": str(out)},
            "model": FIXED,
            "models": [{"as": name, **keys} for name, keys in models.items()],
            **{"runtime": {"runner": "inline", "unit_rows": 50}, **sections},
        }
    )


def alone(keys: dict[str, Any], source: Path, out: Path, **sections: Any) -> pa.Table:
    """What the model says in a job of its own."""
    data = several({}, source, out, **sections).model_dump(exclude_unset=True, exclude={"models"})
    run(Job.build({**data, "model": {**FIXED, **keys}}))
    return predictions(out)


def near(ours: Any, theirs: Any, share: float = 1e-4) -> None:
    """Equal, but for what rounding does: workers choose their operators by timing them."""
    if isinstance(theirs, float):
        assert abs(ours - theirs) <= share * max(abs(theirs), 1)
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            near(one, other, share)
    elif isinstance(theirs, dict):
        near(list(ours.items()), list(theirs.items()), share)
    elif isinstance(theirs, tuple):
        near(list(ours), list(theirs), share)
    else:
        assert ours == theirs


def columns(table: pa.Table, model: str) -> dict[str, list[Any]]:
    begin = column_of(model, "")
    return {
        name.removeprefix(begin): table[name].to_pylist()
        for name in table.column_names
        if name.startswith(begin)
    }


def test_each_answers_as_alone(runner, models, source, tmp_path):
    job = several(models, source, tmp_path / "out", runtime={"runner": runner, "unit_rows": 50})
    assert run(job).exit_code == 0
    table = predictions(tmp_path / "out")
    names = table.column_names
    assert names[:3] == ["source", "row", "id"]
    found = 3
    for model, keys in models.items():
        wanted = alone(keys, source, tmp_path / model)
        own = wanted.column_names[3:]
        assert names[found : found + len(own)] == [f"{model}_{name}" for name in own]
        found += len(own)
        for name in own:
            kind = wanted.schema.field(name).type
            assert table.schema.field(f"{model}_{name}").type == kind
            # The next float16 is up to a thousandth away.
            share = 1e-3 if name == "embedding" else 1e-4
            near(table[f"{model}_{name}"].to_pylist(), wanted[name].to_pylist(), share)
    assert found == len(names)
    verdict = verify(open_output(str(tmp_path / "out")))
    rescore(job, str(tmp_path / "out"), 40, verdict)
    assert (verdict.problems, verdict.rescored) == ([], 40)


def test_a_changed_answer_of_one_model_is_found(models, source, tmp_path):
    job = several({k: models[k] for k in ("two", "one")}, source, tmp_path / "out")
    run(job)
    for part in (tmp_path / "out").glob("*.parquet"):
        table = pq.read_table(part)
        at = table.schema.get_field_index("one_scores")
        turned = pa.array([row[::-1] for row in table["one_scores"].to_pylist()])
        field = table.schema.field(at)
        pq.write_table(table.set_column(at, field, turned.cast(field.type)), part)
    verdict = verify(open_output(str(tmp_path / "out")))
    rescore(job, str(tmp_path / "out"), 20, verdict)
    assert len([p for p in verdict.problems if ": one: scores " in p]) > 10
    assert not any(": two: " in problem for problem in verdict.problems)


def test_a_carried_column_may_be_called_as_another_tasks(models, source, tmp_path):
    carried = {"path": str(source), "carry": ["id:values_label"]}
    job = several(
        {k: models[k] for k in ("values", "one")}, source, tmp_path / "out", input=carried
    )
    run(job)
    verdict = verify(open_output(str(tmp_path / "out")))
    rescore(job, str(tmp_path / "out"), 20, verdict)
    assert (verdict.problems, verdict.rescored) == ([], 20)


def test_what_chooses_a_tokenizers_class_divides_tokens(tmp_path):
    specs = []
    for name, kind in (("bert", None), ("distilbert", "DistilBertTokenizer")):
        folder = Path(make_model(tmp_path / name))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "tokenizer_class": kind}))
        specs.append(check_model(Model(name=str(folder))))
    assert specs[0].tokenizer == specs[1].tokenizer
    assert specs[0].encoding != specs[1].encoding


def test_a_change_on_the_command_line_holds_for_all(models, source, tmp_path):
    data = {
        "input": {"path": str(source)},
        "output": {"path": str(tmp_path / "out")},
        "models": [{"name": "a", "max_length": 128}, {"name": "b"}],
    }
    job = Job.build(data, changes=["model.max_length=64", "models.1.dtype=float32"])
    assert [m.max_length for m in job.models] == [64, 64]
    assert [m.dtype for m in job.models] == ["auto", "float32"]
    with pytest.raises(JobError, match=r"--set models\.²\.name"):
        Job.build(data, changes=["models.².name=x"])


def test_equal_tokenizers_tokenize_once(models, source, tmp_path, monkeypatch):
    calls: Counter[int] = Counter()
    encode = Tokenizer._encode

    def counted(self: Tokenizer, texts: list[str], pairs: Any) -> Any:
        calls[self.max_length] += len(texts) > 40
        return encode(self, texts, pairs)

    monkeypatch.setattr(Tokenizer, "_encode", counted)
    chosen = dict.fromkeys(("a", "b", "c"), models["one"]) | {"two": models["two"]}
    run(several(chosen, source, tmp_path / "out", runtime={"runner": "inline", "unit_rows": 60}))
    assert calls == {48: 2, 24: 2}
    table = predictions(tmp_path / "out")
    assert columns(table, "a") == columns(table, "c")


def test_statistics_are_those_of_jobs_of_their_own(models, source, tmp_path):
    attention = {"statistics": ["entropy", "to_cls"], "sample": 0.7, "group_by": "id"}
    chosen = {name: models[name] for name in ("one", "two", "wide", "roberta")}
    out = tmp_path / "out"
    run(several(chosen, source, out, attention=attention))
    assert verify(open_output(str(out))).problems == []
    table = predictions(out)
    for model, keys in chosen.items():
        own = tmp_path / model
        wanted = alone(keys, source, own, attention=attention)
        for name in attention["statistics"]:
            ours, theirs = attention_array(table, name, model), attention_array(wanted, name)
            np.testing.assert_array_equal(ours, theirs)
        for group, value in (("all", ""), ("length", "17-32"), ("column", 11)):
            mine = load_attention(str(out), group, value, model=model)
            assert mine.equals(load_attention(str(own), group, value)), (model, group)
    found = compare_outputs(open_output(str(out)), open_output(str(tmp_path / "two")), False, "two")
    assert not np.any(found.table["difference"].to_numpy())
    said = CliRunner().invoke(app, ["attention", str(out)])
    assert said.exit_code == 2
    with pytest.raises(JobError, match="scored with the models one, two, wide, roberta; name one"):
        load_attention(str(out))
    with pytest.raises(JobError, match="roberta, and not with 'three'"):
        load_attention(str(out), model="three")
    with pytest.raises(JobError, match="scored with one model; leave 'one' out"):
        load_attention(str(tmp_path / "one"), model="one")


def test_a_row_that_one_model_cannot_answer_is_in_quarantine(models, tmp_path, monkeypatch):
    texts = list(dict.fromkeys(TEXTS))
    write_parquet(tmp_path / "in.parquet", texts)
    score, bad = scoring.score, [3, 70]
    tokenizer = transformers.AutoTokenizer.from_pretrained(models["roberta"]["name"])
    ids = [tokenizer(texts[i], truncation=True, max_length=48)["input_ids"] for i in bad]

    def failing(engine: Any, tokens: Any, first: int, stop: int, *more: Any) -> Any:
        found = score(engine, tokens, first, stop, *more)
        for i in range(first, stop):
            if tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist() in ids:
                found.answers.values[i - first] = np.nan
        return found

    monkeypatch.setattr(scoring, "score", failing)
    chosen = {name: models[name] for name in ("one", "roberta", "wide")}
    limits = {"max_quarantined": 1}
    result = run(several(chosen, tmp_path / "in.parquet", tmp_path / "out", limits=limits))
    assert result.exit_code == 0
    assert {row["id"]: row["reason"] for row in quarantine(tmp_path / "out")} == dict.fromkeys(
        bad, "roberta: the model's output is not a finite number"
    )
    kept = [i for i in range(len(texts)) if i not in bad]
    table = predictions(tmp_path / "out")
    assert table["id"].to_pylist() == kept
    wanted = alone(models["wide"], tmp_path / "in.parquet", tmp_path / "wide").take(kept)
    assert columns(table, "wide")["scores"] == wanted["scores"].to_pylist()


def test_the_order_of_models_does_not_matter_later(models, tmp_path):
    """Their columns keep the order that the output began with."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_parquet(folder / "a.parquet", TEXTS[:60])
    names = ["one", "roberta", "vector"]
    run(several({name: models[name] for name in names}, folder, tmp_path / "out"))
    write_parquet(folder / "b.parquet", TEXTS[60:], 60)
    job = several({name: models[name] for name in names[::-1]}, folder, tmp_path / "out")
    assert run(job).run.rows_scored == 60
    run(several({name: models[name] for name in names}, folder, tmp_path / "at_once"))
    table, wanted = predictions(tmp_path / "out"), predictions(tmp_path / "at_once")
    assert table.sort_by("id").to_pylist() == wanted.sort_by("id").to_pylist()


def test_another_model_is_another_output(models, source, tmp_path):
    run(several({"one": models["one"]}, source, tmp_path / "out"))
    with pytest.raises(JobError, match=r"another job:(.|\n)*models.two.weights: not set"):
        run(several({name: models[name] for name in ("one", "two")}, source, tmp_path / "out"))
    with pytest.raises(JobError, match=r"models.one.max_length: 48 in the output, 24 in the job"):
        run(several({"one": {**models["one"], "max_length": 24}}, source, tmp_path / "out"))
    moved = {"one": {**models["one"], "name": f"{models['one']['name']}/../tiny"}}
    assert run(several(moved, source, tmp_path / "out")).run.rows == 0


@pytest.mark.parametrize(
    ("entries", "sections", "said"),
    [
        ([{"name": "x/A"}, {"name": "y/a"}], {}, "two are called 'a'; give one a name .* by `as`"),
        ([{"name": "a"}], {"model": {"name": "b"}}, "`models` and `model.name` both say"),
        ([{"name": "/"}], {}, "'/' has no last part; name it by `as`"),
        ([{"as": "a/b"}], {}, "'models.0.as' must be text without slashes"),
        ([{"as": "a"}, {"as": "b", "nmae": "c"}], {}, "'models.1.nmae'; did you mean .models.name"),
        ([{"name": "a", "engine": "openvino"}], {"attention": {}}, "openvino gives no statistics"),
        ([{"as": "a", "name": "b"}, {"as": "c"}], {}, "models: each needs a name"),
        (["sentiment-mini"], {}, "'models.0'|'models'"),
    ],
)
def test_models_that_cannot_be_are_errors(entries, sections, said):
    job = {"input": {"path": "in"}, "output": {"path": "out"}, "models": entries, **sections}
    with pytest.raises(JobError, match=said):
        Job.build(job)


def test_jobs_that_cannot_be_are_errors(models, source, tmp_path):
    def tell(chosen: dict[str, Any], said: str, **sections: Any) -> None:
        with pytest.raises(JobError, match=said):
            run(several(chosen, source, tmp_path / "out", **sections))

    carry = {"path": str(source), "carry": ["id:One_Label"]}
    tell({"one": models["one"]}, "'One_Label' is an output column", input=carry)
    named = {"path": str(source), "carry": ["id:label"]}
    tell({"one": models["one"]}, "'label' is an output column", input=named)
    pair = {"path": str(source), "text_pair": "id"}
    tell({"one": models["one"], "tags": models["tags"]}, "reads single texts", input=pair)
    zero_shot = {"one": models["one"], "about": models["about"]}
    tell(zero_shot, "attention: zero_shot", attention={})


def test_prompts_that_differ_are_refused(models, source, tmp_path):
    folder = embedder(tmp_path / "prompted")
    path = folder / "config_sentence_transformers.json"
    config = json.loads(path.read_text())
    config |= {"prompts": {"q": "query: "}, "default_prompt_name": "q"}
    path.write_text(json.dumps(config))
    chosen = {"vector": {"name": str(folder)}, "one": models["one"]}
    with pytest.raises(JobError, match=r"a prompt of their own \('query: '\).*set input.prefix"):
        run(several(chosen, source, tmp_path / "out"))
    prefixed = {"path": str(source), "carry": ["id"], "prefix": ""}
    assert run(several(chosen, source, tmp_path / "out", input=prefixed)).exit_code == 0


def test_the_command_line_takes_several(models, source, tmp_path):
    names = [word for key in ("one", "two") for word in ("--model", models[key]["name"])]
    words = ["score", str(source), str(tmp_path / "out"), *names, "--runner", "inline"]
    said = CliRunner().invoke(app, [*words, "--max-length", "20", "--set", "models.1.as=second"])
    assert said.exit_code == 0, said.output
    table = predictions(tmp_path / "out")
    assert {"tiny_label", "second_score"} <= set(table.column_names)
    assert max(table["second_n_tokens"].to_pylist()) == 20


def test_the_job_file_of_several_models_runs(tmp_path):
    changes = [f"output.path={tmp_path}/out", "runtime.runner=inline", "input.limit=20"]
    changes.append(f"input.path={ROOT}/examples/reviews")
    table = run(Job.load(ROOT / "jobs" / "several-models.yaml", changes)).to_pandas()
    assert set(table["mood_label"]) == {"negative", "positive"}
    assert len(table["vector_embedding"][0]) == 384
