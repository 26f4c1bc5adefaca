"""Engines agree with transformers, with each other, and survive a device without memory."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.attention.varlen
import transformers

from bertbatch import run
from bertbatch.engines import bmm_attention, calibration, packing, precision
from bertbatch.engines.batching import Batching
from bertbatch.engines.engine import EngineOptions
from bertbatch.engines.fused_linear import compile_parts
from bertbatch.engines.probe import TOLERANCE
from bertbatch.engines.probe_texts import make_probe
from bertbatch.engines.scoring import score
from bertbatch.engines.torch_engine import TorchEngine
from bertbatch.errors import JobError, OutOfMemory
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from bertbatch.model.tokenizer import get_tokenizer
from bertbatch.model.tokens import Batch, Tokens
from bertbatch.runtime import preflight, worker
from tests.helpers.classifiers import LENGTHS, PACKED, PADDED, save, some_ids
from tests.helpers.jobs import make_job
from tests.helpers.reference import one_by_one
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts, settled


@pytest.mark.parametrize("kind", [*PACKED, *PADDED])
def test_torch_agrees_with_transformers(kind, tmp_path):
    spec = save(tmp_path / kind, kind)
    engine = settled(spec, Model(dtype="float32"))
    assert (engine.batching == Batching.PACKED) == (kind in PACKED)
    ids = some_ids(LENGTHS)
    wanted = one_by_one(spec, ids, LENGTHS)
    np.testing.assert_allclose(
        engine.start(Batch(ids, LENGTHS, LENGTHS)).answer(), wanted, atol=1e-4
    )
    half = settled(spec, Model(dtype="bfloat16"))
    off = np.abs(half.start(Batch(ids, LENGTHS, LENGTHS)).answer() - wanted).max()
    assert off < 0.1 * np.abs(wanted).max()


@pytest.mark.parametrize("kind", ["bert", "mobilebert"])
def test_where_a_batch_lies_in_memory_changes_no_bit(kind, tmp_path):
    spec = save(tmp_path / kind, kind)
    engine = settled(spec, Model(dtype="float32"))
    ids = some_ids(np.sort(LENGTHS)[::-1]) if kind == "bert" else some_ids(np.full(8, 17))
    lengths = np.sort(LENGTHS)[::-1].copy() if kind == "bert" else np.full(8, 17)
    wanted = engine.start(Batch(ids, lengths, lengths)).answer().copy()
    for shift in range(1, 16):
        room = np.zeros(len(ids) + 16, np.int32)
        moved = room[shift : shift + len(ids)]
        moved[:] = ids
        kept = torch.empty(1000 * shift + shift)  # what is allocated next lies elsewhere
        assert np.array_equal(engine.start(Batch(moved, lengths, lengths)).answer(), wanted), shift
        del kept


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_text_may_spell_out_the_padding_token(kind, tmp_path):
    spec = save(tmp_path / kind, kind)
    engine = settled(spec, Model(dtype="float32"))
    ids = some_ids(LENGTHS)
    ids[[4, 60, 61, 90]] = spec.pad_id
    wanted = one_by_one(spec, ids, LENGTHS)
    np.testing.assert_allclose(
        engine.start(Batch(ids, LENGTHS, LENGTHS)).answer(), wanted, atol=1e-4
    )


def reference_varlen(query, key, value, bounds, _, longest, __, scale=None):
    """What the CUDA kernel computes, one sequence after the other."""
    assert bounds.dtype == torch.int32
    assert longest == np.diff(bounds.numpy()).max()
    out = torch.empty_like(query)
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        q, k, v = (x[start:stop].transpose(0, 1) for x in (query, key, value))
        weights = torch.softmax(q @ k.transpose(1, 2) * scale, -1)
        out[start:stop] = (weights @ v).transpose(0, 1)
    return out


@pytest.mark.parametrize("kind", PACKED)
def test_the_layout_for_gpus_agrees(kind, tmp_path, monkeypatch):
    spec = save(tmp_path / kind, kind)
    engine = settled(spec, Model(dtype="float32"))
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", reference_varlen)
    monkeypatch.setattr(engine, "_layout", packing.variable)
    ids = some_ids(LENGTHS)
    wanted = one_by_one(spec, ids, LENGTHS)
    np.testing.assert_allclose(
        engine.start(Batch(ids, LENGTHS, LENGTHS)).answer(), wanted, atol=1e-4
    )


@pytest.mark.parametrize("chunk", [1 << 19, 3 * 4 * 17 * 17, 2 * 70 * 70, 1])
@torch.inference_mode()
def test_attention_by_products_agrees(chunk, tmp_path, monkeypatch):
    spec = save(tmp_path / "bert", "bert")
    engine = settled(spec, Model(dtype="float32"))
    monkeypatch.setattr(bmm_attention, "CHUNK", chunk)
    dense = bmm_attention.BmmAttention(1)
    monkeypatch.setattr(engine, "_layout", partial(packing.by_length, dense=dense))
    # 70 is over SHORT; rows of 17 and fewer share calls, some whole and some by their heads
    lengths = np.concatenate([[70, 66], LENGTHS, [1] * 20])
    ids = some_ids(lengths)
    wanted = one_by_one(spec, ids, lengths)
    np.testing.assert_allclose(
        engine.start(Batch(ids, lengths, lengths)).answer(), wanted, atol=1e-4
    )
    some = torch.randn(2, 4, 9, 8)
    expected = torch.nn.functional.scaled_dot_product_attention(some, some, some)
    np.testing.assert_allclose(dense(some, some, some, None, None), expected, atol=1e-5)


@pytest.mark.parametrize(("half", "wanted"), [(1.0, "float32"), (0.9, "float32"), (0.5, "half")])
def test_bfloat16_only_where_it_is_faster(half, wanted, monkeypatch):
    seconds = {torch.bfloat16: half, torch.float32: 1.0}
    monkeypatch.setattr(precision, "_product_seconds", seconds.__getitem__)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert precision.fast_dtype("cpu") == wanted.replace("half", "bfloat16")


def test_what_packing_would_change_is_padded(tmp_path, monkeypatch):
    spec = save(tmp_path / "bert", "bert")
    monkeypatch.setattr(packing, "positions", lambda ids, *_: np.zeros(len(ids), np.int64))
    engine = settled(spec, Model(dtype="float32"))
    assert engine.batching == Batching.PADDED
    ids = some_ids(LENGTHS)
    wanted = one_by_one(spec, ids, LENGTHS)
    np.testing.assert_allclose(
        engine.start(Batch(ids, LENGTHS, LENGTHS)).answer(), wanted, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_openvino_agrees(kind, dtype, tmp_path):
    spec = save(tmp_path / kind, kind)
    engine = settled(spec, Model(dtype=dtype), "openvino")
    ids = some_ids(LENGTHS)
    wanted = one_by_one(spec, ids, LENGTHS)
    off = np.abs(engine.start(Batch(ids, LENGTHS, LENGTHS)).answer() - wanted).max()
    assert off < TOLERANCE[dtype] * np.abs(wanted).max()


def test_openvino_that_is_not_installed_is_reported(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    write_parquet(tmp_path / "in.parquet", make_texts(5))
    job = make_job(
        tiny_model, tmp_path / "in.parquet", tmp_path / "out", **{"model.engine": "openvino"}
    )
    with pytest.raises(JobError, match=r"bertbatch\[openvino\]"):
        run(job)


def test_compiled_parts_agree(tmp_path):
    spec = save(tmp_path / "bert", "bert")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(spec.name).eval()
    ids = torch.randint(3, 90, (2, 20))
    with torch.inference_mode():
        wanted = model(input_ids=ids).logits
        compile_parts(model.base_model.encoder)
        layer = model.base_model.encoder.layer[0]
        assert layer.output._compiled_call_impl is not None
        assert layer.intermediate._compiled_call_impl is not None
        torch.testing.assert_close(model(input_ids=ids).logits, wanted, atol=1e-4, rtol=0)


def tokens_of(model: str, texts: list[str]) -> Tokens:
    return get_tokenizer(check_model(Model(name=model))).encode(texts)


@pytest.fixture
def small_device(monkeypatch):
    """Makes the torch engine fail as CUDA does when a batch is over some number of tokens."""

    def limit(tokens: int) -> None:
        packed_batch = TorchEngine._packed

        def with_limit(self: Any, batch: Batch) -> Any:
            if len(batch.ids) > tokens:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return packed_batch(self, batch)

        monkeypatch.setattr(TorchEngine, "_packed", with_limit)

    return limit


def test_out_of_memory_halves_the_budget(tiny_model, small_device):
    tokens = tokens_of(tiny_model, make_texts(300))
    settings = Model(dtype="float32", tokens_per_batch=4096)
    engine = settled(check_model(Model(name=tiny_model)), settings)
    wanted = score(engine, tokens, 0, 300)
    small_device(700)
    got = score(engine, tokens, 0, 300)
    assert engine.tokens_per_batch == 512  # and remembers
    np.testing.assert_allclose(got.answers.values, wanted.answers.values, atol=1e-5)
    small_device(10)
    with pytest.raises(OutOfMemory):
        score(engine, tokens, 0, 300)


def test_a_row_too_large_for_the_device_is_quarantined(tiny_model, tmp_path, small_device):
    texts = ["a b c", "a " * 60, *make_texts(40)]
    write_parquet(tmp_path / "in.parquet", texts)
    lengths = tokens_of(tiny_model, texts).lengths
    # The load itself tries a full batch; only what comes after it fails.
    job = make_job(
        tiny_model, tmp_path / "in.parquet", tmp_path / "out",
        **{"limits.max_quarantined": 1, "runtime.runner": "inline"},
    )  # fmt: skip
    settle = TorchEngine.settle
    try:
        TorchEngine.settle = lambda *args: (settle(*args), small_device(55))[0]
        result = run(job)
    finally:
        TorchEngine.settle = settle
    too_long = int((lengths > 55).sum())
    assert too_long > 0
    assert result.totals["rows_quarantined"] == too_long
    assert result.totals["rows_scored"] == len(texts) - too_long
    assert all("OutOfMemory" in reason for reason in result.run.reasons)


def test_what_was_measured_is_used_again(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "LARGE_INPUT", 100)
    monkeypatch.setattr(worker, "ENOUGH_TOKENS", 100)
    monkeypatch.setattr(calibration, "SECONDS", 0.01)
    folder = tmp_path / "in"
    folder.mkdir()
    write_parquet(folder / "a.parquet", make_texts(200))
    job = make_job(
        tiny_model, folder, tmp_path / "out",
        **{"runtime.runner": "inline", "model.dtype": "float32", "model.tokens_per_batch": "auto"},
    )  # fmt: skip
    first = run(job)
    record = json.loads(first.output.store.read(_only_run(tmp_path)))
    (kind, choice), *none = record["chosen"]["kinds"].items()
    assert not none
    assert "threads" in kind
    best = max(choice["measured"], key=choice["measured"].get)
    assert best == f"{choice['engine']} {choice['dtype']} {choice['tokens_per_batch']}"
    assert any(name.startswith("openvino") for name in choice["measured"])
    assert len(choice["measured"]) >= 3

    def not_again(*_: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(worker, "calibrate", not_again)
    write_parquet(folder / "b.parquet", make_texts(200, seed=1))
    assert run(job).exit_code == 0
    last = json.loads(first.output.store.read(sorted(_runs(tmp_path))[-1]))
    assert last["chosen"]["kinds"][kind] == choice


def test_what_the_job_fixes_is_not_measured(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "ENOUGH_TOKENS", 100)
    monkeypatch.setattr(calibration, "SECONDS", 0.01)
    tokens = tokens_of(tiny_model, make_texts(100))
    settings = Model(engine="torch", dtype="float32", tokens_per_batch=300)
    made = worker.ModelWorker(
        check_model(Model(name=tiny_model)), settings, "cpu", 1, {}, large=True
    )
    made.settle(make_probe(get_tokenizer(check_model(Model(name=tiny_model))), 64))
    made.score(tokens, 0, 100)
    said = made.describe()
    assert (said["engine"], said["dtype"], said["tokens_per_batch"]) == ("torch", "float32", 300)
    assert said["measured"] == {}


def test_an_engine_with_other_answers_is_not_chosen(tiny_model, monkeypatch, caplog):
    monkeypatch.setattr(calibration, "SECONDS", 0.01)
    spec, tokens = check_model(Model(name=tiny_model)), tokens_of(tiny_model, make_texts(100))
    options = EngineOptions(Model(dtype="float32"), "cpu", 1)
    engine = settled(spec, options.settings)
    probe = make_probe(get_tokenizer(spec), 64)
    _, rates = calibration.calibrate(engine, spec, options, tokens, probe)
    assert any(name.startswith("openvino") for name in rates)
    with torch.no_grad():  # as if torch had it right, and OpenVINO rounded too much
        engine._model.classifier.bias[0] += 1
    with caplog.at_level("INFO", "bertbatch"):
        chosen, rates = calibration.calibrate(engine, spec, options, tokens, probe)
    assert chosen is engine
    assert not any(name.startswith("openvino") for name in rates)
    assert "openvino float32 is rejected: its scores are off by 0." in caplog.text


def test_no_memory_for_the_model_is_reported(tiny_model, small_device):
    small_device(10)
    with pytest.raises(JobError, match="no memory on cpu for the model and 64 tokens"):
        settled(check_model(Model(name=tiny_model)), Model())


def _runs(folder: Path) -> list[str]:
    return [str(path) for path in (folder / "out" / "_bertbatch" / "runs").iterdir()]


def _only_run(folder: Path) -> str:
    (path,) = _runs(folder)
    return path
