"""Pairs of texts: scored as transformers scores them, whichever engine and format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
import torch
import transformers

from bertbatch import JobError, attention_array, run
from bertbatch.job.schema import Job
from tests.helpers.classifiers import JAPANESE, save_japanese, save_like_bert, save_roberta
from tests.helpers.jobs import make_job
from tests.helpers.tiny import make_model, make_texts


def scores(model: str, pairs: list[tuple[str, str]], attention: bool = False) -> Any:
    """What transformers answers for each pair alone, in fp32; with its attention if wanted."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(
        model, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    out, weights = [], []
    for pair in pairs:
        # As lists: transformers takes an empty second text alone for no second text.
        options: dict[str, Any] = {"truncation": True, "max_length": 64, "return_tensors": "pt"}
        inputs = tokenizer([pair[0]], [pair[1]], **options)
        with torch.inference_mode():
            answer = loaded(**inputs, output_attentions=attention)
        out.append(answer.logits.softmax(-1)[0].numpy())
        if attention:
            options["return_token_type_ids"] = True
            types = tokenizer([pair[0]], [pair[1]], **options)["token_type_ids"]
            weights.append((types[0], torch.cat(answer.attentions)))
    return (np.stack(out), weights) if attention else np.stack(out)


def some_pairs(count: int) -> list[tuple[str, str]]:
    """Short and long, equal in their tokens but split elsewhere, and empty ones."""
    first, second = make_texts(count, seed=1), make_texts(count, seed=2)
    special = [("a b c", "d"), ("a b", "c d"), ("", "x"), ("x", ""), ("", ""), ("a b c", "d")]
    special += [("a [SEP] b", "c"), ("a", "b [SEP] c")]  # the same tokens, to some tokenizers
    return [*zip(first, second, strict=True), *special]


def write(path: Path, pairs: list[tuple[str | None, str | None]]) -> Path:
    table = pa.table({"q": [a for a, _ in pairs], "a": [b for _, b in pairs]})
    (pq.write_table if path.suffix == ".parquet" else pc.write_csv)(table, path)
    return path


@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize("kind", ["bert", "typed", "electra", "distilbert", "roberta"])
def test_pairs_are_scored_as_by_transformers(kind, engine, tmp_path):
    folder = tmp_path / "model"
    if kind in ("bert", "typed"):
        model = make_model(folder)
        if kind == "typed":
            file = folder / "tokenizer_config.json"
            names = ["input_ids", "token_type_ids", "attention_mask"]
            settings = {**json.loads(file.read_text()), "model_input_names": names}
            file.write_text(json.dumps(settings))
    else:
        model = save_roberta(folder) if kind == "roberta" else save_like_bert(folder, kind)
    pairs = some_pairs(40)
    source = write(tmp_path / "in.parquet", pairs)
    keys = {"input.text": "q", "input.text_pair": "a", "model.engine": engine}
    table = run(make_job(model, source, tmp_path / "out", **keys)).to_pandas()
    np.testing.assert_allclose(np.stack(table["scores"]), scores(model, pairs), atol=3e-5)
    assert table["truncated"].any()


def test_pairs_in_csv_are_scored_as_by_transformers_on_both_runners(runner, tmp_path, tiny_model):
    pairs: list[Any] = [*some_pairs(60)[:-8], ("only one", None)]
    source = write(tmp_path / "in.csv", pairs)
    job = make_job(
        tiny_model, source, tmp_path / "out", runner,
        **{"input.text": "q", "input.text_pair": "a", "limits.max_quarantined": 1},
    )  # fmt: skip
    result = run(job)
    assert (result.totals["rows_scored"], result.totals["rows_quarantined"]) == (60, 1)
    assert dict(result.run.reasons) == {"text_pair is null": 1}
    table = result.to_pandas()
    np.testing.assert_allclose(np.stack(table["scores"]), scores(tiny_model, pairs[:-1]), atol=1e-5)


def test_attention_to_the_other_text_is_that_of_transformers(tmp_path, tiny_model):
    pairs = some_pairs(12)
    source = write(tmp_path / "in.parquet", pairs)
    keys: dict[str, Any] = {"input.text": "q", "input.text_pair": "a"}
    job = make_job(tiny_model, source, tmp_path / "out", **keys).model_dump()
    run(Job.build({**job, "attention": {"statistics": ["to_other_segment", "entropy"]}}))
    table = pq.read_table(tmp_path / "out").sort_by("row")
    ours = attention_array(table, "to_other_segment")
    _, weights = scores(tiny_model, pairs, attention=True)
    for row, (types, p) in enumerate(weights):
        other = (types[:, None] != types).float()
        wanted = (p * other).sum(-1).mean(-1)
        np.testing.assert_allclose(ours[row], wanted, 1e-4, 1e-6)


def test_japanese_pairs_are_scored_as_by_transformers(tmp_path):
    model = save_japanese(tmp_path / "model")
    pairs = [(a, b) for a in JAPANESE for b in (*JAPANESE, "素晴らしかった。" * 40)]
    source = write(tmp_path / "pairs.parquet", pairs)
    keys = {"input.text": "q", "input.text_pair": "a"}
    table = run(make_job(model, source, tmp_path / "pairs", **keys)).to_pandas()
    np.testing.assert_allclose(np.stack(table["scores"]), scores(model, pairs), atol=3e-5)
    assert table["truncated"].tolist() == [False, False, False, False, True] * 4


def test_a_missing_pair_column_is_reported(tmp_path, tiny_model):
    source = write(tmp_path / "in.parquet", [("a", "b")])
    with pytest.raises(JobError, match=r"no text pair column 'b'; it has: q, a.*--text-pair"):
        run(
            make_job(
                tiny_model, source, tmp_path / "o", **{"input.text": "q", "input.text_pair": "b"}
            )
        )
