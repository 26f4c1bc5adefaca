"""Encoders whose attention reaches near tokens only, turns positions, or averages at the end."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers

from bertbatch import run
from bertbatch.engines.batching import Batching
from bertbatch.engines.scoring import score
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from bertbatch.model.tokenizer import Tokenizer
from tests.helpers.architectures import one_at_a_time, tiny_config
from tests.helpers.jobs import make_job
from tests.helpers.outputs import predictions
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_model, make_texts, settled

LENGTH = 60
TEXTS = [*make_texts(20), "", "a"]
KINDS = [
    ("modernbert", {"classifier_pooling": "cls"}, [4, 4]),
    ("modernbert", {"classifier_pooling": "mean", "global_attn_every_n_layers": 3}, [4, 4]),
    ("eurobert", {"classifier_pooling": "bos"}, [4, 4]),
    ("eurobert", {"classifier_pooling": "mean", "num_key_value_heads": 2}, [4, 4]),
    ("eurobert", {"classifier_pooling": "late"}, [4, 4]),
    ("nomic_bert", {}, [4, 4]),
    ("gte", {}, [4, 4]),
    ("jina_embeddings_v3", {}, [4, 4]),
]


def save(folder, kind, settings):
    make_model(folder)
    config = tiny_config(kind)
    changed = type(config)(**{**config.to_dict(), **settings})
    torch.manual_seed(3)
    model = transformers.AutoModelForSequenceClassification.from_config(changed)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("kind", "settings", "heads"), KINDS)
def test_packed_answers_are_those_of_each_text_alone(tmp_path, kind, settings, heads):
    folder = save(tmp_path / "model", kind, settings)
    spec = check_model(Model(name=folder, max_length=LENGTH))
    engine = settled(spec, Model(dtype="float32", tokens_per_batch=256))
    assert engine.batching is Batching.PACKED, engine.reason
    got = score(engine, Tokenizer(spec).encode(TEXTS), 0, len(TEXTS)).answers.values
    wanted = one_at_a_time(folder, TEXTS)
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(("kind", "settings", "heads"), KINDS)
def test_statistics_are_those_of_transformers_weights(tmp_path, kind, settings, heads):
    folder = save(tmp_path / "model", kind, settings)
    write_parquet(tmp_path / "in.parquet", TEXTS)
    keys = {"attention.statistics": ["entropy", "mean_distance"], "model.max_length": LENGTH}
    run(make_job(folder, tmp_path / "in.parquet", tmp_path / "out", **keys))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, attn_implementation="eager"
    ).eval()
    for row, text in zip(predictions(tmp_path / "out").to_pylist(), TEXTS, strict=True):
        ids = tokenizer(text, truncation=True, max_length=LENGTH, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            weights = torch.cat(model(ids, output_attentions=True).attentions)
        assert [len(layer) for layer in weights] == heads
        entropy = -(weights * weights.clamp(min=1e-30).log()).sum(-1).mean(-1).flatten()
        np.testing.assert_allclose(row["attn_entropy"], entropy, atol=2e-4)
        place = torch.arange(ids.shape[1])
        distance = (weights * (place - place[:, None]).abs()).sum(-1).mean(-1).flatten()
        np.testing.assert_allclose(row["attn_mean_distance"], distance, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "reach"),
    [
        ({"global_attn_every_n_layers": 3, "local_attention": 8}, b",4"),
        ({"global_attn_every_n_layers": 1}, None),
    ],
)
def test_the_column_says_how_far_layers_reach(tmp_path, settings, reach):
    folder = save(tmp_path / "model", "modernbert", {**settings, "layer_types": None})
    write_parquet(tmp_path / "in.parquet", TEXTS)
    keys = {"attention.statistics": ["entropy"], "model.max_length": LENGTH}
    run(make_job(folder, tmp_path / "in.parquet", tmp_path / "out", **keys))
    (part, *_) = (tmp_path / "out").glob("*.parquet")
    field = pq.read_schema(part).field("attn_entropy")
    assert field.metadata.get(b"reach") == reach
