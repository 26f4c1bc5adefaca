"""Folders with a graph in ONNX instead of weights: the answers are those of the weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertbatch import JobError, run
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from bertbatch.registry import ENGINES
from tests.helpers.classifiers import save_like_bert, save_roberta
from tests.helpers.jobs import make_job
from tests.helpers.onnx_folders import to_onnx
from tests.helpers.outputs import predictions, run_and_rescore
from tests.helpers.sources import write_parquet
from tests.helpers.taggers import save_tagger
from tests.helpers.tiny import make_model, make_texts

TEXTS = make_texts(150)
NLI = {"id2label": {0: "entailment", 1: "other"}, "label2id": {"entailment": 0, "other": 1}}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_parquet(tmp_path / "in.parquet", TEXTS)
    return tmp_path / "in.parquet"


def scored(model: Any, source: Path, out: Path, runner: str = "inline", **keys: Any) -> Any:
    keys = {"input.carry": ["id"], **{f"model.{key}": value for key, value in keys.items()}}
    run_and_rescore(make_job(str(model), source, out, runner, **keys), 30)
    return predictions(out)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert"])
def test_classes_are_those_of_the_weights(runner, architecture, source, tmp_path):
    folder = tmp_path / "model"
    if architecture == "bert":
        make_model(folder)
    elif architecture == "roberta":
        save_roberta(folder)
    else:
        save_like_bert(folder, architecture)
    weights = to_onnx(folder, below="onnx" if architecture == "bert" else "")
    ours = scored(folder, source, tmp_path / "ours", runner)
    theirs = scored(weights, source, tmp_path / "theirs", engine="torch")
    assert ours["label"].to_pylist() == theirs["label"].to_pylist()
    pairs = (np.array(table["scores"].to_pylist()) for table in (ours, theirs))
    np.testing.assert_allclose(*pairs, atol=1e-4)
    kinds = list((tmp_path / "ours" / "_bertbatch" / "runs").glob("*.json"))
    assert '"engine": "openvino"' in kinds[0].read_text()


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ({"problem_type": "multi_label_classification"}, {}),
        ({"problem_type": "regression"}, {"long_text": "windows", "max_length": 20}),
        (NLI, {"task": "zero_shot", "candidate_labels": ["a", "b c"]}),
    ],
)
def test_each_task_of_classes(source, tmp_path, config, keys):
    weights = to_onnx(Path(make_model(tmp_path / "model", **config)))
    ours = scored(tmp_path / "model", source, tmp_path / "ours", **keys)
    theirs = scored(weights, source, tmp_path / "theirs", engine="torch", **keys)
    name = "values" if config.get("problem_type") == "regression" else "scores"
    pairs = (np.array(table[name].to_pylist()) for table in (ours, theirs))
    np.testing.assert_allclose(*pairs, atol=1e-4)


def test_entities_are_those_of_the_weights(source, tmp_path):
    folder = Path(save_tagger(tmp_path / "model", "wordpiece"))
    weights = to_onnx(folder, "AutoModelForTokenClassification")
    ours = scored(folder, source, tmp_path / "ours")["entities"].to_pylist()
    theirs = scored(weights, source, tmp_path / "theirs", engine="torch")["entities"].to_pylist()
    assert [[(e["label"], e["start"], e["end"]) for e in row] for row in ours] == [
        [(e["label"], e["start"], e["end"]) for e in row] for row in theirs
    ]


def test_weights_are_preferred_where_there_are_both(source, tmp_path):
    folder = Path(make_model(tmp_path / "model"))
    weights = to_onnx(folder)
    for path in Path(weights).glob("*.safetensors"):
        (folder / path.name).write_bytes(path.read_bytes())
    assert not check_model(Model(name=str(folder))).onnx
    assert check_model(Model(name=str(folder))).weights == check_model(Model(name=weights)).weights


def test_other_graphs_are_other_models(tmp_path):
    folders = [Path(make_model(tmp_path / name)) for name in ("one", "two")]
    kept = [to_onnx(folder) for folder in folders]
    one, two = (check_model(Model(name=str(folder))).weights for folder in folders)
    assert one == two != check_model(Model(name=kept[0])).weights
    (folders[1] / "model.onnx_data").write_bytes(b"weights beside the graph")
    assert check_model(Model(name=str(folders[1]))).weights != one


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"model.engine": "torch"}, "which OpenVINO runs; set model.engine: auto"),
        ({"model.dtype": "int8"}, "model.dtype may be float32, bfloat16 or auto then"),
        ({"model.task": "embedding"}, "embeddings need the weights"),
        ({"attention.statistics": ["entropy"]}, "gives no statistics; leave attention out"),
        ({"runtime.device": "cuda"}, "openvino runs on CPUs"),
    ],
)
def test_what_a_graph_cannot_do_is_an_error(source, tmp_path, keys, said):
    to_onnx(Path(make_model(tmp_path / "model")))
    keys = {"model.dtype": "float32", **keys}
    with pytest.raises(JobError, match=said):
        run(make_job(str(tmp_path / "model"), source, tmp_path / "out", **keys))
    assert not (tmp_path / "out").exists()


def test_without_openvino_the_error_names_it(source, tmp_path, monkeypatch):
    to_onnx(Path(make_model(tmp_path / "model")))
    monkeypatch.setattr(type(ENGINES["openvino"]), "installed", False)
    with pytest.raises(JobError, match=r"a model.onnx needs openvino, .*'bertbatch\[openvino\]'$"):
        run(make_job(str(tmp_path / "model"), source, tmp_path / "out"))


def test_a_damaged_graph_is_an_error(source, tmp_path):
    to_onnx(Path(make_model(tmp_path / "model")))
    path = tmp_path / "model" / "model.onnx"
    whole = path.read_bytes()
    for data in (b"", whole[: len(whole) // 2], b"\0" * 100):
        path.write_bytes(data)
        with pytest.raises(JobError, match=r"model\.onnx cannot be read"):
            run(make_job(str(tmp_path / "model"), source, tmp_path / "out"))


def test_a_graph_with_other_classes_is_an_error(source, tmp_path):
    to_onnx(Path(make_model(tmp_path / "model")))
    three = Path(make_model(tmp_path / "three", id2label=dict(enumerate("abc")), label2id=None))
    (tmp_path / "model" / "config.json").write_bytes((three / "config.json").read_bytes())
    with pytest.raises(JobError, match=r"has the shape \(1, 2\), not \(1, 3\)"):
        run(make_job(str(tmp_path / "model"), source, tmp_path / "out"))


def test_a_graph_at_a_url(source, tmp_path):
    import fsspec

    to_onnx(Path(make_model(tmp_path / "model")), below="onnx")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "model"), "/at-url", recursive=True)
    try:
        found = scored("memory://at-url", source, tmp_path / "ours")
    finally:
        memory.rm("/at-url", recursive=True)
    assert (
        found["label"].to_pylist()
        == scored(tmp_path / "model", source, tmp_path / "t")["label"].to_pylist()
    )
