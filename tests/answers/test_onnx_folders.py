"""Folders with a graph in ONNX instead of weights: the answers are those of the weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bertbatch import JobError, run
from bertbatch.engines import openvino_engine
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from bertbatch.registry import ENGINES
from bertbatch.runtime.worker import ModelWorker
from tests.helpers.classifiers import save_like_bert, save_roberta
from tests.helpers.jobs import make_job
from tests.helpers.onnx_folders import to_onnx
from tests.helpers.outputs import predictions, run_and_rescore
from tests.helpers.sources import write_parquet
from tests.helpers.taggers import save_tagger
from tests.helpers.tiny import make_model, make_texts, settled

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
    graph = (folders[1] / "model.onnx").read_bytes()
    (folders[1] / "model.onnx").write_bytes(graph[:-1] + bytes([graph[-1] ^ 1]))
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


@pytest.mark.parametrize("each", [False, True])
def test_weights_beside_a_graph_are_part_of_it(each, source, tmp_path):
    """In one file, or one for each tensor, whatever their names are."""
    folder = Path(make_model(tmp_path / "model"))
    to_onnx(folder)
    model = onnx.load(folder / "model.onnx")
    inside = scored(folder, source, tmp_path / "inside")
    where = {} if each else {"location": "any name.bin"}
    onnx.save_model(
        model, folder / "model.onnx", save_as_external_data=True, size_threshold=64,
        all_tensors_to_one_file=not each, **where,
    )  # fmt: skip
    assert scored(folder, source, tmp_path / "beside")["scores"].equals(inside["scores"])
    before = check_model(Model(name=str(folder)))
    assert before.parameters > 1000
    names = ("config.json", "model.onnx", "special_tokens_map.json")
    beside = [p for p in folder.iterdir() if p.name not in names and "token" not in p.name]
    assert (len(beside) == 1) != each
    data = beside[-1].read_bytes()
    beside[-1].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert check_model(Model(name=str(folder))).weights != before.weights
    beside[-1].unlink()
    with pytest.raises(JobError, match=r"has weights in '.*', which is not a file beside it"):
        check_model(Model(name=str(folder)))


def test_the_output_called_logits_counts(source, tmp_path):
    folder = Path(make_model(tmp_path / "model"))
    weights = to_onnx(folder)
    model = onnx.load(folder / "model.onnx")
    logits = model.graph.output[0]
    shares = onnx.helper.make_node("Softmax", ["logits"], ["probabilities"])
    model.graph.node.append(shares)
    first = onnx.helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, [None, 2])
    del model.graph.output[:]
    model.graph.output.extend([first, logits])
    onnx.save_model(model, folder / "model.onnx")
    ours = scored(folder, source, tmp_path / "ours")["scores"].to_pylist()
    theirs = scored(weights, source, tmp_path / "theirs", engine="torch")["scores"].to_pylist()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    del model.graph.output[1:]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("input_ids_2", onnx.TensorProto.INT64, [None, None])
    )
    model.graph.node.append(onnx.helper.make_node("Identity", ["input_ids"], ["input_ids_2"]))
    onnx.save_model(model, folder / "model.onnx")
    with pytest.raises(JobError, match="none is called logits"):
        run(make_job(str(folder), source, tmp_path / "out"))


def test_tokens_that_a_graph_has_not_are_an_error(source, tmp_path):
    folder = Path(make_model(tmp_path / "model"))
    to_onnx(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 40}))
    with pytest.raises(JobError, match="its tokenizer has ids up to 83, the model only 40"):
        run(make_job(str(folder), source, tmp_path / "out"))


def test_a_graph_runs_on_the_cpu_beside_a_gpu(tmp_path):
    to_onnx(Path(make_model(tmp_path / "model")))
    spec = check_model(Model(name=str(tmp_path / "model")))
    worker = ModelWorker(spec, Model(), "cuda", 1, {}, large=False)
    assert worker.describe()["device"] == "cpu"


def test_what_another_worker_found_holds_for_the_precision(tmp_path, monkeypatch):
    """It may have had to fall back to float32, which this one would not find out by itself."""
    to_onnx(Path(make_model(tmp_path / "model")))
    spec = check_model(Model(name=str(tmp_path / "model")))
    monkeypatch.setattr(openvino_engine, "fast_dtype", lambda device: "bfloat16")
    known = {"dtype": "float32", "batching": "padded", "reason": "", "operators": {}}
    assert settled(spec, Model(), "openvino", known=known).dtype == "float32"
    assert (
        settled(spec, Model(), "openvino", known=known | {"dtype": "bfloat16"}).dtype != "float32"
    )


def test_a_bfloat16_that_is_not_near_enough_gives_way_to_float32(tmp_path, monkeypatch):
    to_onnx(Path(make_model(tmp_path / "model")))
    spec = check_model(Model(name=str(tmp_path / "model")))
    monkeypatch.setattr(openvino_engine, "fast_dtype", lambda device: "bfloat16")
    choose = openvino_engine.choose_batching

    def too_far(engine: Any, *given: Any) -> str:
        if engine.dtype == "bfloat16":
            raise JobError("off by 1")
        return choose(engine, *given)

    monkeypatch.setattr(openvino_engine, "choose_batching", too_far)
    engine = settled(spec, Model(), "openvino")
    assert (engine.dtype, engine.batching.value) == ("float32", "padded")
    with pytest.raises(JobError, match="off by 1"):
        settled(spec, Model(dtype="bfloat16"), "openvino")


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
