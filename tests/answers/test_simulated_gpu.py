"""What is decided for GPUs and what runs on them, where there is none: on a simulated one."""

import sys
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.attention.varlen
from hypothesis import given
from hypothesis import strategies as st

from bertbatch.engines import packing, precision
from bertbatch.engines.attention_stats import AttentionStats
from bertbatch.engines.batching import Batching
from bertbatch.engines.joint_linear import join
from bertbatch.errors import JobError
from bertbatch.job.model import Model
from bertbatch.job.schema import Attention
from bertbatch.model.spec import check_model
from bertbatch.model.tokenizer import Tokenizer
from bertbatch.model.tokens import Batch
from bertbatch.runtime.executors import ray_nodes
from bertbatch.runtime.executors.ray import RayExecutor
from bertbatch.runtime.worker import make_attention_stats
from tests.helpers import classifiers
from tests.helpers.classifiers import LENGTHS, PACKED, PADDED, save, some_ids
from tests.helpers.reference import allowed, one_by_one
from tests.helpers.simulated_gpu import SimulatedGpu, simulated
from tests.helpers.tiny import make_model, make_texts, settled

T4, A100, H100 = (7, 5), (8, 0), (9, 0)


@pytest.mark.parametrize("kind", [*PACKED, *PADDED])
@pytest.mark.parametrize(
    ("capability", "dtype", "found"),
    [(H100, "auto", "bfloat16"), (A100, "float32", "float32"), (T4, "auto", "float16")],
)
def test_answers_on_a_simulated_gpu_agree(kind, capability, dtype, found, tmp_path):
    spec = save(tmp_path / kind, kind)
    ids = some_ids(LENGTHS)
    wanted = one_by_one(spec, ids, LENGTHS)
    with simulated(capability):
        engine = settled(spec, Model(dtype=dtype), device="cuda")
        got = engine.start(Batch(ids, LENGTHS, LENGTHS)).answer()
    assert engine.dtype == found
    assert engine.batching == (Batching.PACKED if kind in PACKED else Batching.PADDED)
    in_one_kernel = found == "bfloat16" and kind in PACKED
    assert engine._layout is (packing.variable if in_one_kernel else packing.by_length)
    assert np.abs(got - wanted).max() < allowed(spec, ids, LENGTHS, found)


VIEWS = ("transpose", "view", "expand", "split", "reshape", "getitem", "contiguous", "dropout")


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_a_layer_takes_ten_launches(kind, tmp_path, monkeypatch):
    """Of those four products: query, key and value are one."""
    counts = []
    for layers in (2, 4):
        monkeypatch.setitem(classifiers.SMALL, "num_hidden_layers", layers)
        spec = save(tmp_path / f"{kind}{layers}", kind)
        with simulated(A100) as gpu:
            engine = settled(spec, Model(dtype="bfloat16"), device="cuda")
            gpu.kernels.clear()
            engine.start(Batch(some_ids(LENGTHS), LENGTHS, LENGTHS)).answer()
        launched = [name for name in gpu.kernels if not any(view in name for view in VIEWS)]
        counts.append((len(launched), sum("linear" in name for name in launched)))
    assert counts[1][0] - counts[0][0] <= 2 * 10
    assert counts[1][1] - counts[0][1] == 2 * 4


def test_other_inputs_are_multiplied_anew():
    """As in attention to another text: key and value are of something else than the query."""
    torch.manual_seed(0)
    layers = torch.nn.Module()
    for name in ("query", "key", "value"):
        setattr(layers, name, torch.nn.Linear(8, 4))
    x, other = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    orders = [[("query", x), ("key", other), ("value", other)], [("value", x), ("query", x)]]
    wanted = [[getattr(layers, name)(of) for name, of in order] for order in orders]
    undo = join(layers)
    for order, answers in zip(orders, wanted, strict=True):
        for (name, of), answer in zip(order, answers, strict=True):
            torch.testing.assert_close(getattr(layers, name)(of), answer)
    undo()
    assert isinstance(layers.query, torch.nn.Linear)


@pytest.mark.parametrize("batching", [Batching.PACKED, Batching.PADDED])
def test_pairs_on_a_simulated_gpu_agree(batching, tmp_path):
    spec = save(tmp_path / "bert", "bert")
    pairs = Tokenizer(spec).encode(make_texts(12), make_texts(12, seed=1))
    rows = np.argsort(-pairs.lengths, kind="stable")
    wanted = settled(spec, Model(dtype="float32")).start(pairs.take(rows)).answer()
    with simulated():
        engine = settled(spec, Model(dtype="float32"), device="cuda")
        engine.use(batching)
        got = engine.start(pairs.take(rows)).answer()
    np.testing.assert_allclose(got, wanted, atol=1e-4)


@pytest.mark.parametrize("capability", [T4, A100])
@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_statistics_need_no_kernel_of_new_gpus(capability, dtype, tmp_path):
    spec = save(tmp_path / "bert", "bert")
    ids = some_ids(LENGTHS)

    def statistics(device: str, dtype: str) -> Any:
        stats = make_attention_stats(spec, Attention(), 1)
        engine = settled(spec, Model(dtype=dtype), device=device, statistics=stats)
        return engine.start(Batch(ids, LENGTHS, LENGTHS, with_statistics=True)).statistics()

    wanted, counted = statistics("cpu", "float32")
    with simulated(capability):
        got, counts = statistics("cuda", dtype)
    np.testing.assert_array_equal(counts, counted)
    if dtype == "float32":
        np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert np.abs(got - wanted).mean() < 0.05


def without_scale(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, return_aux=None):
    raise AssertionError("it was called without the model's scale")


def wrong(self, query, *_, **__):
    return torch.ones_like(query), torch.empty(0), torch.empty(0)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("old GPU", "only supports Ampere"),
        ("odd heads", "head_size must be a multiple of 8"),
        ("torch 2.10", "unexpected keyword argument 'scale'"),
        ("torch 2.9", "torch.nn.attention.varlen"),
        ("wrong numbers", "answers would be off by"),
    ],
)
def test_attention_falls_back_and_says_why(case, reason, tmp_path, monkeypatch, caplog):
    odd = {"hidden_size": 52, "num_attention_heads": 2} if case == "odd heads" else {}
    spec = check_model(Model(name=make_model(tmp_path / "model", **odd)))
    if case == "torch 2.10":
        monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", without_scale)
    elif case == "torch 2.9":
        monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    elif case == "wrong numbers":
        monkeypatch.setattr(SimulatedGpu, "_varlen", wrong)
    with caplog.at_level("INFO", "bertbatch"), simulated(T4 if case == "old GPU" else H100):
        engine = settled(spec, Model(dtype="float16"), device="cuda")
    assert engine.batching == Batching.PACKED
    assert engine._layout is packing.by_length
    assert "attention runs by groups of lengths" in caplog.text
    assert reason in caplog.text


@pytest.mark.parametrize("fails", [True, False])
def test_without_a_compiler_it_is_packed_all_the_same(fails, tmp_path, monkeypatch, caplog):
    def compiled(self: torch.nn.Module, **_: Any) -> None:
        def call(*args: Any) -> Any:
            calls.append(self)
            if fails:
                raise RuntimeError("Failed to find C compiler. Please specify via CC")
            return self.forward(*args)

        self._compiled_call_impl = call

    calls: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    spec = save(tmp_path / "bert", "bert")
    ids = some_ids(LENGTHS)
    wanted = one_by_one(spec, ids, LENGTHS)
    with simulated():
        engine = settled(spec, Model(dtype="float32", compile=True), device="cuda")
        calls.clear()
        got = engine.start(Batch(ids, LENGTHS, LENGTHS)).answer()
    assert engine.batching == Batching.PACKED
    assert ("is not compiled: Failed to find C compiler" in caplog.text) == fails
    assert bool(calls) != fails
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_a_gpu_that_torch_has_no_kernels_for_is_reported(tmp_path, caplog):
    def no_kernel(name: str) -> None:
        if "add" in name or "mm" in name:
            raise torch.AcceleratorError("CUDA error: no kernel image is available for execution")

    spec = save(tmp_path / "bert", "bert")
    with caplog.at_level("INFO", "bertbatch"), simulated((7, 0)) as gpu:
        gpu.hook = no_kernel
        with pytest.raises(JobError, match=r"torch .* has no kernels for the Simulated GPU"):
            settled(spec, Model(), device="cuda")
    assert not caplog.text  # nothing else was tried in vain


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 0), "float16"), (T4, "float16"), (A100, "bfloat16")]
)
def test_emulated_bfloat16_does_not_count(capability, dtype):
    with simulated(capability):
        assert torch.cuda.is_bf16_supported()
        assert precision.fast_dtype("cuda") == dtype


@pytest.mark.parametrize("rows", [70_000, 65_535, 65_534])
def test_more_rows_than_a_kernel_takes_are_grouped_by_length(rows):
    lengths = np.full(rows, 2)
    made = packing.variable(lengths, 2 * rows, "cpu")
    groups = packing.by_length(lengths, 2 * rows, "cpu").groups
    assert isinstance(made, packing.Variable) == (rows < 65_535)
    assert max(group.rows for group in groups) <= 65_535
    assert sum(group.rows for group in groups) == rows


def test_the_simulation_notices_what_a_gpu_would():
    with simulated() as gpu:
        there = torch.ones(3).to("cuda")
        for mixed in (lambda: there + torch.ones(3), lambda: torch.cat([torch.ones(3), there])):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        answer = torch.empty(3, pin_memory=True)
        answer.copy_(there, non_blocking=True)
        assert answer.isnan().all()
        gpu.synchronize()
        assert answer.tolist() == [1, 1, 1]


def fitting(gpus: list[float], share: float) -> int:
    """The workers that a cluster of nodes with so many GPUs has room for, by the runner."""
    found = ray_nodes.Resources([8] * len(gpus), gpus, store=1 << 30)
    executor: Any = object.__new__(RayExecutor)
    executor._device = "cuda"
    runtime = SimpleNamespace(gpus_per_worker=share)
    executor._context = SimpleNamespace(job=SimpleNamespace(runtime=runtime))
    return int(executor._fit(found))


@pytest.mark.parametrize(
    ("share", "each"),
    [(1, 1), (0.7, 1), (0.5, 2), (0.34, 2), (1 / 3, 3), (0.3, 3), (0.25, 4), (0.1, 10)]
    + [(1 / n, n) for n in range(2, 50)],
)
def test_a_worker_lies_on_one_gpu(share, each):
    for gpus in ([8.0], [1.0, 0.0, 4.0], [1.0] * 7):
        assert fitting(gpus, share) == sum(gpus) * each


@given(st.floats(0.0001, 1))
def test_as_many_workers_as_fit_on_a_gpu_and_no_more(share):
    of_it = Fraction(int(share * 10_000), 10_000)  # as Ray counts
    each = ray_nodes.to_a_gpu(share)
    assert each * of_it <= 1 < (each + 1) * of_it


class Nearly:
    """In the place of statistics in one pass: those by tiles, and a little more."""

    def __init__(self, stats: Any, more: float):
        self._stats, self._more = stats, more

    def layout(self, *batch: Any) -> Any:
        self._stats._one_pass = None
        made = self._stats.layout(*batch)
        self._stats._one_pass = self

        def statistics() -> Any:
            values, counts = type(made).statistics(made)
            return values + self._more, counts

        return SimpleNamespace(attend=made.attend, statistics=statistics)


@pytest.mark.parametrize(("more", "kept"), [(0.0, True), (1e-6, True), (1e-3, False)])
def test_statistics_in_one_pass_are_used_if_they_are_those_by_tiles(
    more, kept, tiny_model, monkeypatch, caplog
):
    caplog.set_level("INFO", "bertbatch")
    monkeypatch.setattr(
        AttentionStats,
        "use_one_pass",
        lambda self, device: setattr(self, "_one_pass", Nearly(self, more)),
    )
    spec = check_model(Model(name=tiny_model))
    stats = make_attention_stats(spec, Attention(), 1)
    with simulated(A100):
        engine = settled(spec, Model(dtype="float32"), device="cuda", statistics=stats)
    assert (engine._statistics._one_pass is not None) == kept
    assert ("attention statistics by tiles" in caplog.text) != kept
