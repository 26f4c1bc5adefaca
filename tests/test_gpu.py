"""On a real GPU: the same answers as on the CPU, packed, and a device without memory.

Not part of the default run: `make gpu-check`, on a machine with an NVIDIA GPU.
"""

import numpy as np
import pytest
import torch

from bertbatch import run
from bertbatch.engines import load_engine, packed
from bertbatch.job import Model
from bertbatch.model import check
from bertbatch.scoring import score
from bertbatch.tokenizer import get_tokenizer
from tests.conftest import make_job, write_parquet
from tests.test_engines import PACKED, PADDED, save
from tests.tiny import make_texts

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def gpu():
    assert torch.cuda.is_available(), "these tests need a GPU that torch can see"
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.empty_cache()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", [*PACKED, *PADDED])
def test_answers_are_the_cpus(kind, dtype, tmp_path):
    spec = save(tmp_path / kind, kind)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 61, 300)
    ids = rng.integers(3, 90, lengths.sum()).astype(np.int32)
    wanted = load_engine("torch", spec, Model(dtype="float32"), "cpu", 8).start(ids, lengths)
    engine = load_engine("torch", spec, Model(dtype=dtype), "cuda", 8)
    assert engine.packs == (kind in PACKED)
    off = np.abs(engine.start(ids, lengths).logits() - wanted.logits())
    largest = np.abs(wanted.logits()).max()
    assert off.max() < {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.03}[dtype] * largest


def test_the_packaged_model_packs_through_the_variable_length_kernel():
    spec = check(Model())
    engine = load_engine("torch", spec, Model(), "cuda", 8)
    assert engine.packs
    assert engine._layout is packed.variable
    tokens = get_tokenizer(spec).encode([f"{text} was good" for text in make_texts(2000)])
    got = score(engine, tokens, 0, 2000).logits
    cpu = load_engine("torch", spec, Model(dtype="float32"), "cpu", 8)
    wanted = score(cpu, tokens, 0, 2000).logits
    share = np.exp(wanted) / np.exp(wanted).sum(1, keepdims=True)
    other = np.exp(got) / np.exp(got).sum(1, keepdims=True)
    assert np.abs(share - other).max() < 0.02


def test_compiled_parts_agree():
    spec = check(Model())
    tokens = get_tokenizer(spec).encode(make_texts(500))
    plain = score(load_engine("torch", spec, Model(), "cuda", 8), tokens, 0, 500).logits
    compiled = load_engine("torch", spec, Model(compile=True), "cuda", 8)
    assert compiled.packs
    assert np.abs(score(compiled, tokens, 0, 500).logits - plain).max() < 0.1


def test_real_out_of_memory_halves_the_budget():
    spec = check(Model())
    texts = [
        f"{a} {b} {c}" for a, b, c in zip(*(make_texts(20_000, i) for i in range(3)), strict=True)
    ]
    tokens = get_tokenizer(spec).encode(texts)
    engine = load_engine("torch", spec, Model(), "cuda", 8)
    wanted = score(engine, tokens, 0, len(texts)).logits
    budget = 2**21
    engine.tokens_per_batch = budget
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1.5 * 2**30 / total))
    try:
        got = score(engine, tokens, 0, len(texts)).logits
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert engine.tokens_per_batch < budget
    assert np.abs(got - wanted).max() < 0.1


@pytest.mark.parametrize("runner", ["inline", "ray"])
def test_a_job_on_the_gpu(runner, tiny_model, tmp_path):
    write_parquet(tmp_path / "in.parquet", make_texts(2000))
    settings = {"model.dtype": "auto", "model.tokens_per_batch": "auto", "runtime.runner": runner}
    where = {"runtime.device": "cuda"}
    gpu = run(make_job(tiny_model, tmp_path / "in.parquet", tmp_path / "gpu", **settings, **where))
    where = {"runtime.device": "cpu"}
    cpu = run(make_job(tiny_model, tmp_path / "in.parquet", tmp_path / "cpu", **settings, **where))
    a, b = (np.stack(result.to_pandas()["scores"]) for result in (gpu, cpu))
    assert a.shape == b.shape
    # Random weights of this size exaggerate rounding: it is rows and order that count here.
    assert np.abs(a - b).mean() < 0.05
