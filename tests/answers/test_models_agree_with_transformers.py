"""Other members of the family answer as in transformers: positions, special tokens, Japanese."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bertbatch import JobError, run
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from tests.helpers.classifiers import JAPANESE, SMALL, save_japanese, save_like_bert, save_roberta
from tests.helpers.jobs import make_job
from tests.helpers.reference import one_at_a_time
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_model, make_texts


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "electra"])
def test_architectures_agree_with_transformers(kind, tmp_path):
    folder = tmp_path / kind
    model = save_roberta(folder) if kind == "roberta" else save_like_bert(folder, kind)
    texts = make_texts(120, seed=3)
    write_parquet(tmp_path / "in.parquet", texts)
    table = run(make_job(model, tmp_path / "in.parquet", tmp_path / "out")).to_pandas()
    expected = one_at_a_time(model, texts)
    # Sums in another order: their last bits depend on the processor.
    np.testing.assert_allclose(np.stack(table["scores"]), expected, atol=5e-5)
    assert table["n_tokens"].max() == 64
    assert table["truncated"].any()


def test_a_japanese_tokenizer_in_python_agrees(tmp_path):
    model = save_japanese(tmp_path / "model")
    texts = [*JAPANESE, "素晴らしかった。" * 40]
    write_parquet(tmp_path / "in.parquet", texts)
    table = run(make_job(model, tmp_path / "in.parquet", tmp_path / "out")).to_pandas()
    expected = one_at_a_time(model, texts)
    np.testing.assert_allclose(np.stack(table["scores"]), expected, atol=1e-5)
    assert table["truncated"].tolist() == [False] * 4 + [True]
    assert (table["unk_share"] == 0).all()


def test_a_vocabulary_that_does_not_fit_is_reported_once(tmp_path, tiny_model, caplog):
    write_parquet(tmp_path / "in.parquet", JAPANESE[:3] * 40)
    result = run(
        make_job(tiny_model, tmp_path / "in.parquet", tmp_path / "o", **{"runtime.unit_rows": 30})
    )
    assert (result.to_pandas()["unk_share"] > 0.8).all()
    said = [r for r in caplog.records if "vocabulary does not fit" in r.getMessage()]
    assert len(said) == 1


def sentencepiece_model(folder: Path) -> str:
    """DeBERTa v3 as it is uploaded: its tokenizer is a SentencePiece model alone."""
    import sentencepiece

    folder.mkdir()
    texts = iter([*make_texts(300), *(f"{text} worth it, really?" for text in make_texts(50))])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=texts, model_prefix=str(folder / "spm"), vocab_size=200, minloglevel=2,
        pad_id=0, pad_piece="[PAD]", bos_id=1, bos_piece="[CLS]", eos_id=2, eos_piece="[SEP]",
        unk_id=3, unk_piece="[UNK]",
    )  # fmt: skip
    (folder / "spm.vocab").unlink()
    config = transformers.DebertaV2Config(
        vocab_size=210, max_position_embeddings=64, type_vocab_size=0, **SMALL
    )
    torch.manual_seed(4)
    transformers.DebertaV2ForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def test_a_sentencepiece_model_alone_is_a_tokenizer(tmp_path, monkeypatch):
    model = sentencepiece_model(tmp_path / "model")
    texts = make_texts(60, seed=3)
    write_parquet(tmp_path / "in.parquet", texts)
    table = run(make_job(model, tmp_path / "in.parquet", tmp_path / "out")).to_pandas()
    expected = one_at_a_time(model, texts)
    np.testing.assert_allclose(np.stack(table["scores"]), expected, atol=5e-5)
    assert table["unk_share"].max() < 0.5
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(JobError, match=r"pip install 'bertbatch\[sentencepiece\]'"):
        check_model(Model(name=model))


# What people name as a model, and what is wrong with it.


def edited(folder: Path, name: str = "config.json", **keys: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
    return folder


def renamed(folder: Path, change: Any) -> Path:
    path = str(folder / "model.safetensors")
    tensors = {change(name): tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def without(folder: Path, pattern: str) -> Path:
    for path in folder.glob(pattern):
        path.unlink()
    return folder


def with_adapter(folder: Path, weights: bool) -> Path:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_file({"x": torch.zeros(1)}, str(folder / "adapter_model.safetensors"))
    return folder if weights else without(folder, "model.safetensors")


def deeper(folder: Path) -> Path:
    """A checkpoint of three layers beside a config.json of two."""
    path = str(folder / "model.safetensors")
    more = {name.replace("layer.1.", "layer.2."): x.clone() for name, x in load_file(path).items()}
    save_file({**load_file(path), **more}, path, metadata={"format": "pt"})
    return folder


def with_tokens_added(folder: Path) -> Path:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<name>", "<place>"])
    tokenizer.save_pretrained(folder)
    return folder


WRONG: dict[str, tuple[Any, str]] = {
    "no tokenizer": (lambda f: without(f, "token*"), "has no tokenizer"),
    "a tokenizer without words": (
        lambda f: edited(
            f, "tokenizer.json", added_tokens=[], model={"type": "WordLevel", "vocab": {"[UNK]": 0},
            "unk_token": "[UNK]"}, post_processor=None,
        ),
        "knows no token but special ones",
    ),
    "tokens added": (with_tokens_added, r"ids up to 85, the model only 84 embeddings"),
    "an adapter beside weights": (lambda f: with_adapter(f, True), "holds an adapter"),
    "an adapter alone": (lambda f: with_adapter(f, False), "holds an adapter"),
    "bitsandbytes": (
        lambda f: edited(f, quantization_config={"quant_method": "bitsandbytes"}),
        r"quantized \(bitsandbytes",
    ),
    "gptq": (
        lambda f: edited(f, quantization_config={"quant_method": "gptq", "bits": 4}), "quantized"
    ),
    "quantized in no known way": (lambda f: edited(f, quantization_config=[1]), "quantized"),
    "DataParallel": (lambda f: renamed(f, lambda n: f"module.{n}"), "as DataParallel names them"),
    "one layer more": (deeper, r"has bert.encoder.layer.2.*is config.json the checkpoint's own"),
    "another shape": (
        lambda f: edited(f, intermediate_size=128), r"shape \[64\] in the checkpoint, \[128\]"
    ),
    "remote code": (
        lambda f: edited(f, model_type="own", auto_map={"AutoConfig": "own.Config"}),
        "needs code of its own|model type `own`",
    ),
    "an unknown model type": (lambda f: edited(f, model_type="bart2"), "bart2"),
    "no model type": (lambda f: edited(f, model_type=None), "model"),
    "a list": (lambda f: (f / "config.json").write_text("[]") and f, "not a JSON object"),
    "cut JSON": (
        lambda f: (f / "tokenizer_config.json").write_text('{"a": ') and f,
        r"tokenizer_config.json cannot be read",
    ),
    "a layer that is no number": (lambda f: edited(f, num_hidden_layers="2"), "'2', not a whole"),
    "labels in a list": (lambda f: edited(f, id2label=["a", "b"]), "id2label"),
    "heads that do not divide": (lambda f: edited(f, num_attention_heads=5), "attention heads"),
    "an unknown activation": (lambda f: edited(f, hidden_act="swoosh"), "swoosh"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_model_folder_is_refused_with_its_reason(what, tmp_path):
    folder = tmp_path / "model"
    make_model(folder)
    change, message = WRONG[what]
    change(folder)
    write_parquet(tmp_path / "in.parquet", ["a b", "c"])
    with pytest.raises(JobError, match=message) as caught:
        run(make_job(str(folder), tmp_path / "in.parquet", tmp_path / "out"))
    assert str(folder) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_the_classifier_does_not_use_is_named(tmp_path, caplog):
    """The head of pre-training does no harm, nor does a pooler that the head does not ask."""
    folder = tmp_path / "model"
    make_model(folder)
    path = str(folder / "model.safetensors")
    more = {"cls.predictions.bias": torch.zeros(84), "bert.embeddings.position_ids": torch.ones(64)}
    save_file({**load_file(path), **more}, path, metadata={"format": "pt"})
    write_parquet(tmp_path / "in.parquet", ["a b", "c"])
    with caplog.at_level("INFO", "bertbatch"):
        run(make_job(str(folder), tmp_path / "in.parquet", tmp_path / "out"))
    assert "the classifier does not use cls.predictions.bias" in caplog.text


@pytest.mark.parametrize("kernel", ["flash_attention_2", "sdpa", "eager"])
def test_the_attention_kernel_of_a_config_changes_no_answer(kernel, tmp_path):
    """Which kernel computes it is no part of an answer: ours does."""
    folder = tmp_path / "model"
    make_model(folder)
    texts = make_texts(20)
    expected = one_at_a_time(str(folder), texts)
    edited(folder, attn_implementation=kernel)
    write_parquet(tmp_path / "in.parquet", texts)
    table = run(make_job(str(folder), tmp_path / "in.parquet", tmp_path / "out")).to_pandas()
    np.testing.assert_allclose(np.stack(table["scores"]), expected, atol=5e-5)


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("multi_label_classification", {"labels", "scores"}),
        ("single_label_classification", {"label", "score", "scores"}),
    ],
)
def test_the_job_says_what_the_outputs_mean(kind, columns, tiny_model, tmp_path):
    write_parquet(tmp_path / "in.parquet", make_texts(20))
    keys = {"model.problem_type": kind}
    job = make_job(tiny_model, tmp_path / "in.parquet", tmp_path / "out", **keys)
    assert columns <= set(run(job).to_pandas().columns)
    other = {"multi_label_classification": "single_label_classification"}.get(kind, "regression")
    keys = {"model.problem_type": other}
    with pytest.raises(JobError, match="belongs to another job"):
        run(make_job(tiny_model, tmp_path / "in.parquet", tmp_path / "out", **keys))
