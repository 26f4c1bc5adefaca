"""On a real GPU: the CPU's answers, packed, with and without one kernel; memory that runs out.

Not part of the default run: `make gpu-check`, on a machine with an NVIDIA GPU, in minutes. What
would spoil the rest comes first, and what ends a process's use of the GPU last.
"""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from bertbatch import run
from bertbatch.engines import packing
from bertbatch.engines.batching import Batching
from bertbatch.engines.scoring import score
from bertbatch.job.model import Model
from bertbatch.job.schema import Attention
from bertbatch.model.spec import check_model
from bertbatch.model.tokenizer import get_tokenizer
from bertbatch.model.tokens import Batch
from bertbatch.runtime.worker import make_attention_stats
from tests.helpers.classifiers import LENGTHS, PACKED, PADDED, save, some_ids
from tests.helpers.jobs import make_job
from tests.helpers.paths import ROOT
from tests.helpers.reference import allowed, one_by_one
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_model, make_texts, settled

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.empty_cache()


def on_new_gpus() -> bool:
    return torch.cuda.get_device_capability() >= (8, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [32, 64, 26])
def test_attention_in_one_kernel_agrees(size, dtype):
    """As by groups of lengths, where the kernel takes the heads and knows the GPU."""
    torch.manual_seed(0)
    lengths = np.sort(np.random.default_rng(0).integers(1, 513, 200))[::-1].copy()
    total = int(lengths.sum())
    query, key, value = torch.randn(3, total, 4, size, device="cuda", dtype=dtype)
    wanted = packing.by_length(lengths, total, "cuda").attend(query, key, value, 0.2)
    why = ""
    try:
        got = packing.variable(lengths, total, "cuda").attend(query, key, value, 0.2)
    except (RuntimeError, TypeError, ImportError) as error:
        why = str(error).splitlines()[0]
    if why:  # an old GPU, odd heads, or a torch before 2.11
        assert size % 8 or not on_new_gpus() or "scale" in why or "varlen" in why
        pytest.skip(f"the kernel does not: {why}")
    torch.testing.assert_close(got, wanted, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("rows", [65_534, 70_000])
def test_attention_of_many_short_rows_agrees(rows):
    torch.manual_seed(0)
    lengths = np.full(rows, 2)
    query, key, value = torch.randn(3, 2 * rows, 4, 32, device="cuda", dtype=torch.float16)
    made = packing.by_length if not on_new_gpus() else packing.variable
    got = made(lengths, 2 * rows, "cuda").attend(query, key, value, 0.2)
    q, k, v = (x.view(rows, 2, 4, 32).transpose(1, 2).float() for x in (query, key, value))
    wanted = (torch.softmax(q @ k.mT * 0.2, -1) @ v).transpose(1, 2).reshape(2 * rows, 4, 32)
    torch.testing.assert_close(got.float(), wanted, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", [*PACKED, *PADDED])
def test_answers_are_the_cpus(kind, dtype, tmp_path):
    spec = save(tmp_path / kind, kind)
    lengths = np.concatenate([LENGTHS, np.random.default_rng(0).integers(1, 61, 60)])
    ids = some_ids(lengths)
    engine = settled(spec, Model(dtype=dtype), device="cuda")
    got = engine.start(Batch(ids, lengths, lengths)).answer()
    assert np.abs(got - one_by_one(spec, ids, lengths)).max() < allowed(
        spec, ids, lengths, dtype, "cuda"
    )
    # Random weights exaggerate rounding, which alone may speak against packing in half precision.
    by_rounding = dtype != "float32" and "answers would be off" in engine.reason
    assert by_rounding or (engine.batching == Batching.PACKED) == (kind in PACKED), engine.reason


def test_heads_that_no_kernel_takes_are_packed(tmp_path):
    folder = make_model(tmp_path / "odd", hidden_size=52, num_attention_heads=2)
    engine = settled(check_model(Model(name=folder)), Model(dtype="float16"), device="cuda")
    assert engine.batching == Batching.PACKED, engine.reason


def test_the_packaged_model_packs_in_one_kernel():
    spec = check_model(Model())
    engine = settled(spec, Model(), device="cuda")
    assert engine.dtype == ("bfloat16" if on_new_gpus() else "float16")
    assert engine.batching == Batching.PACKED, engine.reason
    assert (engine._layout is packing.variable) == on_new_gpus()
    tokens = get_tokenizer(spec).encode([f"{text} was good" for text in make_texts(2000)])
    got = score(engine, tokens, 0, 2000).answers.values
    wanted = score(settled(spec, Model(dtype="float32")), tokens, 0, 2000).answers.values
    share = np.exp(wanted) / np.exp(wanted).sum(1, keepdims=True)
    other = np.exp(got) / np.exp(got).sum(1, keepdims=True)
    assert np.abs(share - other).max() < 0.02


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_statistics_are_the_cpus(dtype):
    spec = check_model(Model())
    tokens = get_tokenizer(spec).encode(make_texts(200))
    tokens.sampled[:] = True

    def statistics(device: str, dtype: str) -> Any:
        stats = make_attention_stats(spec, Attention(), 8)
        engine = settled(spec, Model(dtype=dtype), device=device, statistics=stats)
        return score(engine, tokens, 0, 200).statistics

    got, wanted = statistics("cuda", dtype), statistics("cpu", "float32")
    np.testing.assert_array_equal(got.counts, wanted.counts)
    np.testing.assert_array_equal(got.text, wanted.text)
    off = np.abs(got.values - wanted.values) / np.maximum(np.abs(wanted.values), 1)
    assert off.max() < (2e-3 if dtype == "float32" else 0.2)
    assert off.mean() < (1e-4 if dtype == "float32" else 0.01)


def test_compiled_parts_agree(caplog):
    spec = check_model(Model())
    tokens = get_tokenizer(spec).encode(make_texts(500))
    plain = score(settled(spec, Model(), device="cuda"), tokens, 0, 500).answers.values
    with caplog.at_level("WARNING", "bertbatch"):
        compiled = settled(spec, Model(compile=True), device="cuda")
    assert compiled.batching == Batching.PACKED
    assert np.abs(score(compiled, tokens, 0, 500).answers.values - plain).max() < 0.1
    if "is not compiled" in caplog.text:  # packed all the same, without a C compiler, say
        pytest.skip(caplog.messages[-1])


@pytest.mark.parametrize("runner", ["inline", "ray"])
def test_a_job_on_the_gpu_has_the_cpus_answers(runner, tiny_model, tmp_path):
    if runner == "ray":
        pytest.importorskip("ray")
    write_parquet(tmp_path / "in.parquet", make_texts(2000))
    settings = {"model.dtype": "auto", "model.tokens_per_batch": "auto", "runtime.runner": runner}

    def scores(device: str) -> np.ndarray:
        where = {"runtime.device": device, "input.carry": ["id"]}
        out = tmp_path / device
        assert run(make_job(tiny_model, tmp_path / "in.parquet", out, **settings, **where))
        whole = pq.read_table(out, columns=["id", "scores"]).sort_by("id")
        return np.array(pc.list_flatten(whole["scores"])).reshape(len(whole), -1)

    a, b = scores("cuda"), scores("cpu")
    assert a.shape == b.shape == (2000, 2)
    # Random weights of this size exaggerate rounding: it is rows and order that count here.
    assert np.abs(a - b).mean() < 0.05


def test_real_out_of_memory_halves_the_budget():
    spec = check_model(Model())
    texts = [
        f"{a} {b} {c}" for a, b, c in zip(*(make_texts(20_000, i) for i in range(3)), strict=True)
    ]
    tokens = get_tokenizer(spec).encode(texts)
    engine = settled(spec, Model(), device="cuda")
    wanted = score(engine, tokens, 0, len(texts)).answers.values
    budget = 2**21
    engine.tokens_per_batch = budget
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1.5 * 2**30 / total))
    try:
        got = score(engine, tokens, 0, len(texts)).answers.values
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert engine.tokens_per_batch < budget
    assert np.abs(got - wanted).max() < 0.1


LOSE = """
import sys
import numpy as np
from bertbatch.errors import DeviceLost
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from bertbatch.model.tokens import Batch
from tests.helpers.tiny import settled

engine = settled(check_model(Model(name=sys.argv[1])), Model(), device="cuda")
lengths = np.array([20, 10])
good = np.full(30, 7, np.int32)
bad = good.copy()
bad[13] = 10**6
engine.start(Batch(good, lengths, lengths)).answer()
for ids in (bad, good):
    try:
        engine.start(Batch(ids, lengths, lengths)).answer()
        print("answered")
    except DeviceLost as error:
        print("lost:", error)
"""


def test_an_id_that_the_model_has_not_loses_the_gpu(tiny_model):
    """In a process of its own: it can use the GPU no more, and everything after it fails."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", LOSE, tiny_model],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    said = [line for line in done.stdout.splitlines() if line.startswith(("lost", "answered"))]
    assert len(said) == 2, done.stderr
    assert all(line.startswith("lost: CUDA error") for line in said), said
