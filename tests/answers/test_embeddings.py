"""Embeddings, against sentence-transformers' own."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers

from bertbatch import JobError, run
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from bertbatch.output.folder import open_output
from tests.helpers.classifiers import save
from tests.helpers.embedders import LENGTH, embedder, plain
from tests.helpers.jobs import make_job
from tests.helpers.outputs import predictions, run_and_rescore
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts

TEXTS = [*make_texts(40), "", "a"]


def theirs(folder: Path, **keys) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return np.stack([model.encode([text], **keys)[0] for text in TEXTS])


def scored(model, tmp_path, texts=TEXTS, **keys):
    """The predictions, which verify finds to be those of the model."""
    write_parquet(tmp_path / "in.parquet", texts)
    job = make_job(str(model), tmp_path / "in.parquet", tmp_path / "out", **keys)
    run_and_rescore(job, len(texts))
    return predictions(tmp_path / "out")


def vectors(table: pa.Table) -> np.ndarray:
    return np.stack(table["embedding"].to_numpy()).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "pooling", "layers"),
    # Every value, and every pair of values.
    [
        ("bert", "mean", ""),
        ("bert", "cls", "n"),
        ("bert", "lasttoken", "dn"),
        ("roberta", "mean", "n"),
        ("roberta", "cls", "dn"),
        ("roberta", "lasttoken", ""),
        ("distilbert", "mean", "dn"),
        ("distilbert", "cls", ""),
        ("distilbert", "lasttoken", "n"),
        ("rembert", "mean", ""),
        ("rembert", "cls", "n"),
        ("rembert", "lasttoken", "dn"),
    ],
)
def test_vectors_are_those_of_sentence_transformers(tmp_path, kind, pooling, layers):
    folder = embedder(tmp_path, kind, pooling, layers)
    table = scored(folder, tmp_path)
    np.testing.assert_allclose(vectors(table), theirs(folder), atol=1e-4)
    (record,) = open_output(str(tmp_path / "out")).runs()
    (chosen,) = record["chosen"]["kinds"].values()
    assert chosen["batching"] == ("padded" if kind == "rembert" else "packed")


@pytest.mark.parametrize("runner", ["inline", "ray"])
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_both_engines_and_runners_give_the_same(tmp_path, engine, runner):
    folder = embedder(tmp_path, layers="dn")
    keys = {"model.engine": engine, "model.dtype": "float32", "runtime.runner": runner}
    table = scored(folder, tmp_path, **keys)
    np.testing.assert_allclose(vectors(table), theirs(folder), atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_in_other_precisions_vectors_point_the_same_way(tmp_path, dtype):
    folder = embedder(tmp_path, layers="n")
    got = vectors(scored(folder, tmp_path, **{"model.dtype": dtype}))
    wanted = theirs(folder)
    assert ((got * wanted).sum(1) / np.linalg.norm(got, axis=1)).min() > 0.98


@pytest.mark.parametrize("dimensions", [None, 5])
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_the_column_is_a_list_of_fixed_size(tmp_path, kind, dimensions):
    folder = embedder(tmp_path, layers="n")
    keys = {"model.embedding_type": kind, "model.dimensions": dimensions}
    table = scored(folder, tmp_path, **keys)
    number = pa.float16() if kind == "float16" else pa.float32()
    assert table["embedding"].type == pa.list_(number, dimensions or 32)
    wanted = theirs(folder, truncate_dim=dimensions)
    np.testing.assert_allclose(vectors(table), wanted, atol=1e-3 if kind == "float16" else 1e-4)


@pytest.mark.parametrize("pooling", ["auto", "mean", "cls", "last"])
def test_a_plain_encoder(tmp_path, pooling):
    """By default the mean over all tokens, as sentence-transformers takes it, too."""
    folder = plain(tmp_path / "encoder")
    keys = {"model.pooling": pooling, "model.max_length": LENGTH}
    table = scored(folder, tmp_path, **keys)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    for text, vector in zip(TEXTS, vectors(table), strict=True):
        made = tokenizer(text, truncation=True, max_length=LENGTH, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**made).last_hidden_state[0].numpy()
        wanted = {"cls": hidden[0], "last": hidden[-1]}.get(pooling, hidden.mean(0))
        np.testing.assert_allclose(vector, wanted, atol=1e-4)


def test_a_classifier_gives_vectors_if_asked(tmp_path):
    save(tmp_path / "model", "bert")
    got = vectors(scored(tmp_path / "model", tmp_path, **{"model.task": "embedding"}))
    np.testing.assert_allclose(got, theirs(tmp_path / "model"), atol=1e-4)


def test_a_default_prompt_is_put_before_each_text(tmp_path, caplog):
    folder = embedder(tmp_path)
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text())
    settings |= {"prompts": {"query": "q: ", "document": "d: "}, "default_prompt_name": "query"}
    path.write_text(json.dumps(settings))
    with caplog.at_level("INFO", "bertbatch"):
        table = scored(folder, tmp_path)
    assert "each text begins with the model's own prompt 'q: '" in caplog.text
    np.testing.assert_allclose(vectors(table), theirs(folder), atol=1e-4)
    assert open_output(str(tmp_path / "out")).contract()["input"]["prefix"] == "q: "
    other = tmp_path / "other"
    other.mkdir()
    table = scored(folder, other, **{"input.prefix": "d: "})
    np.testing.assert_allclose(vectors(table), theirs(folder, prompt="d: "), atol=1e-4)


def test_a_number_that_float16_cannot_hold_is_quarantined(tmp_path):
    folder = embedder(tmp_path, layers="d")
    weights = folder / "2_Dense" / "model.safetensors"
    from safetensors.torch import load_file, save_file

    settings = json.loads((folder / "2_Dense" / "config.json").read_text())
    settings["activation_function"] = "torch.nn.modules.linear.Identity"
    (folder / "2_Dense" / "config.json").write_text(json.dumps(settings))
    save_file({k: v * 1e6 for k, v in load_file(weights).items()}, weights)
    write_parquet(tmp_path / "in.parquet", TEXTS)
    keys = {"model.embedding_type": "float16"}
    job = make_job(str(folder), tmp_path / "in.parquet", tmp_path / "out", **keys)
    result = run(job)
    assert result.run.rows_quarantined > 0
    assert result.run.rows_scored == len(TEXTS) - result.run.rows_quarantined
    if result.run.rows_scored:
        assert np.isfinite(vectors(predictions(tmp_path / "out"))).all()


def changed(folder: Path, file: str, **keys) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.mark.parametrize(
    ("file", "keys", "said"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "its pooling is max"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "cls"]}, "its pooling is mean and cls"),
        ("1_Pooling/config.json", {"include_prompt": False}, "leaves out the tokens of the prompt"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "in lower case"),
        ("2_Dense/config.json", {"use_residual": True}, "has use_residual"),
        ("2_Dense/config.json", {"activation_function": "torch.nn.SELU"}, "activation torch.nn.SE"),
        ("2_Dense/config.json", {"activation_function": "os.system"}, "activation os.system"),
        ("2_Dense/config.json", {"out_features": 5}, r"linear.weight.*config.json says"),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "on token_embeddings"),
    ],
)  # fmt: skip
def test_what_is_not_known_of_a_folder_is_refused_by_name(tmp_path, file, keys, said):
    folder = embedder(tmp_path, layers="d")
    prompts = {"prompts": {"q": "q: "}, "default_prompt_name": "q"}
    changed(folder, "config_sentence_transformers.json", **prompts)
    changed(folder, file, **keys)
    with pytest.raises(JobError, match=said):
        check_model(Model(name=str(folder)))


@pytest.mark.parametrize("kind", ["LayerNorm", "WeightedLayerPooling", "StaticEmbedding"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_modules_that_are_not_known_are_named(tmp_path, kind, place):
    folder = embedder(tmp_path, layers="d")
    modules = json.loads((folder / "modules.json").read_text())
    modules[place]["type"] = f"sentence_transformers.models.{kind}"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(JobError, match=rf"modules.json names .*{kind}"):
        check_model(Model(name=str(folder)))


@pytest.mark.parametrize(
    "modules",
    [{}, [1], [{"type": "Transformer", "path": "../other"}], [{"type": "x", "path": ".."}], ""],
)
def test_a_damaged_list_of_modules_is_named(tmp_path, modules):
    folder = embedder(tmp_path)
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(JobError, match=r"modules\.json"):
        check_model(Model(name=str(folder)))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"top_k": 1}, "top_k: embedding has no classes"),
        ({"logits": True}, "logits: embedding does not use it"),
        ({"labels": ["a"]}, "labels: embedding does not use it"),
        ({"dimensions": 33}, "dimensions 33: .* has vectors of 32"),
        ({"task": "single_label"}, "single_label needs one that ends in ForSequenceClass"),
        ({"activation": "sigmoid"}, "activation sigmoid: the scores of embedding"),
    ],
)  # fmt: skip
def test_keys_of_other_tasks_are_refused(tmp_path, keys, said):
    folder = plain(tmp_path / "encoder")
    with pytest.raises(JobError, match=said):
        check_model(Model(name=str(folder), **keys))


@pytest.mark.parametrize("key", ["pooling", "dimensions", "embedding_type"])
def test_keys_of_embeddings_are_refused_elsewhere(tiny_model, key):
    value = {"pooling": "cls", "dimensions": 2, "embedding_type": "float16"}[key]
    with pytest.raises(JobError, match=f"{key}: single_label does not use it, only embedding"):
        check_model(Model(name=tiny_model, **{key: value}))


@pytest.mark.parametrize("file", ["1_Pooling/config.json", "2_Dense/model.safetensors"])
def test_a_changed_layer_is_another_model(tmp_path, file):
    folder = embedder(tmp_path, layers="d")
    scored(folder, tmp_path)
    if file.endswith(".json"):
        changed(folder, file, pooling_mode="cls")
    else:
        from safetensors.torch import load_file, save_file

        save_file({k: v * 2 for k, v in load_file(folder / file).items()}, folder / file)
    with pytest.raises(JobError, match=r"model.weights: .* in the output"):
        run(make_job(str(folder), tmp_path / "in.parquet", tmp_path / "out"))


def test_an_encoder_with_more_layers_than_its_config_says_is_refused(tmp_path):
    folder = plain(tmp_path / "encoder")
    changed(folder, "config.json", num_hidden_layers=1)
    write_parquet(tmp_path / "in.parquet", TEXTS)
    with pytest.raises(JobError, match=r"checkpoint has encoder\.layer\.1"):
        run(make_job(str(folder), tmp_path / "in.parquet", tmp_path / "out"))


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta"])
def test_the_encoders_settings_may_have_another_name(tmp_path, kind):
    folder = embedder(tmp_path)
    (folder / "sentence_bert_config.json").unlink()
    settings = folder / f"sentence_{kind}_config.json"
    settings.write_text(json.dumps({"max_seq_length": 20, "do_lower_case": False}))
    assert check_model(Model(name=str(folder))).max_length == 20
    np.testing.assert_allclose(vectors(scored(folder, tmp_path)), theirs(folder), atol=1e-4)
    settings.write_text(json.dumps({"max_seq_length": 20, "do_lower_case": True}))
    with pytest.raises(JobError, match=f"sentence_{kind}_config.json asks for texts in lower case"):
        check_model(Model(name=str(folder)))
