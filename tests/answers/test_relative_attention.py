"""DeBERTa and MPNet, whose attention depends on distances, packed: against transformers' own."""

import numpy as np
import pytest
import torch
import transformers

from bertbatch import run
from bertbatch.engines.batching import Batching
from bertbatch.engines.scoring import score
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from bertbatch.model.tokenizer import Tokenizer
from tests.helpers.architectures import one_at_a_time
from tests.helpers.jobs import make_job
from tests.helpers.outputs import predictions
from tests.helpers.sources import write_parquet
from tests.helpers.taggers import save_tagger
from tests.helpers.tiny import make_model, make_texts, settled

LENGTH = 60
TEXTS = [*make_texts(30), "", "a"]
V3 = {
    "relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm",
    "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
    "max_relative_positions": -1, "type_vocab_size": 0,
}  # fmt: skip
DEBERTAS = {
    "v3": V3,
    "v2": {**V3, "share_att_key": False, "type_vocab_size": 2},
    "without buckets": {**V3, "position_buckets": -1},
    "few distances": {**V3, "position_buckets": -1, "max_relative_positions": 7},
    "c2p": {**V3, "pos_att_type": ["c2p"], "share_att_key": False},
    "p2c": {**V3, "pos_att_type": ["p2c"], "norm_rel_ebd": "none"},
    "absolute": {},
    "small embeddings": {**V3, "embedding_size": 16},
}


def save(folder, kind="deberta-v2", **settings):
    make_model(folder)
    given = {
        "vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 72, "initializer_range": 0.5,
        "num_labels": 3, "pad_token_id": 0, "pooler_hidden_size": 32,
    }  # fmt: skip
    config = transformers.AutoConfig.for_model(kind, **given, **settings)
    torch.manual_seed(3)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    for name, weight in model.named_parameters():
        if "relative_attention_bias" in name or "rel_embeddings" in name:
            torch.nn.init.normal_(weight, std=1.0)
    model.save_pretrained(folder)
    return str(folder)


KINDS = [("deberta-v2", name) for name in DEBERTAS] + [("mpnet", "")]


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_answers_are_those_of_each_text_alone(tmp_path, kind, name):
    folder = save(tmp_path / "model", kind, **DEBERTAS.get(name, {}))
    spec = check_model(Model(name=folder, max_length=LENGTH))
    engine = settled(spec, Model(dtype="float32", tokens_per_batch=256))
    assert engine.batching is Batching.PACKED, engine.reason
    got = score(engine, Tokenizer(spec).encode(TEXTS), 0, len(TEXTS)).answers.values
    np.testing.assert_allclose(got, one_at_a_time(folder, TEXTS), atol=1e-4)


@pytest.mark.parametrize(("kind", "name"), [("deberta-v2", "v3"), ("mpnet", "")])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 59, 60])
def test_every_length_beside_every_other(tmp_path, kind, name, length):
    folder = save(tmp_path / "model", kind, **DEBERTAS.get(name, {}))
    spec = check_model(Model(name=folder, max_length=LENGTH))
    engine = settled(spec, Model(dtype="float32", tokens_per_batch=256))
    texts = ["a b " * 40, " ".join("a" * max(length - 2, 0)), "c"]
    got = score(engine, Tokenizer(spec).encode(texts), 0, len(texts)).answers.values
    np.testing.assert_allclose(got, one_at_a_time(folder, texts), atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "name"), [("deberta-v2", "v3"), ("deberta-v2", "c2p"), ("mpnet", "")]
)
def test_statistics_are_those_of_transformers_weights(tmp_path, kind, name):
    folder = save(tmp_path / "model", kind, **DEBERTAS.get(name, {}))
    write_parquet(tmp_path / "in.parquet", TEXTS)
    keys = {"attention.statistics": ["entropy", "to_cls"], "model.max_length": LENGTH}
    run(make_job(folder, tmp_path / "in.parquet", tmp_path / "out", **keys))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for row, text in zip(predictions(tmp_path / "out").to_pylist(), TEXTS, strict=True):
        ids = tokenizer(text, truncation=True, max_length=LENGTH, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            weights = torch.cat(model(ids, output_attentions=True).attentions)
        entropy = -(weights * weights.clamp(min=1e-30).log()).sum(-1).mean(-1).flatten()
        np.testing.assert_allclose(row["attn_entropy"], entropy, atol=1e-4)
        np.testing.assert_allclose(
            row["attn_to_cls"], weights[..., 0].mean(-1).flatten(), atol=1e-4
        )


@pytest.mark.parametrize("kind", ["deberta-v2", "mpnet"])
def test_in_half_precision(tmp_path, kind):
    folder = save(tmp_path / "model", kind, **(V3 if kind == "deberta-v2" else {}))
    spec = check_model(Model(name=folder, max_length=LENGTH))
    engine = settled(spec, Model(dtype="bfloat16", tokens_per_batch=256))
    got = score(engine, Tokenizer(spec).encode(TEXTS), 0, len(TEXTS)).answers.values
    wanted = one_at_a_time(folder, TEXTS)
    assert np.abs(got - wanted).max() < 0.1 * np.abs(wanted).max()


@pytest.mark.parametrize("kind", ["deberta-v2", "mpnet"])
def test_tokens_are_classified_in_packed_batches(tmp_path, kind):
    folder = save_tagger(tmp_path / "model", "wordpiece", kind)
    spec = check_model(Model(name=folder, max_length=64))
    assert settled(spec, Model(dtype="float32")).batching is Batching.PACKED


def test_a_convolution_between_tokens_is_told(tmp_path):
    folder = save(tmp_path / "model", conv_kernel_size=3, conv_act="gelu", **V3)
    spec = check_model(Model(name=folder, max_length=LENGTH))
    engine = settled(spec, Model(dtype="float32"))
    assert engine.batching is not Batching.PACKED
    assert "packed: it mixes neighbouring tokens" in engine.reason
