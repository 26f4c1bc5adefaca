"""The Triton kernels' arithmetic, in Triton's interpreter: `make test-kernels`.

It shows neither what a GPU's matrix units round nor what a compiled kernel takes.
"""

import os
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: make test-kernels")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1: make test-kernels", allow_module_level=True)

from bertbatch.engines.fused_statistics import FusedStatistics
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from bertbatch.model.tokens import Batch
from bertbatch.registry import STATISTICS
from bertbatch.statistics.statistic import make_statistics
from tests.helpers.attention_reference import agrees, classes, engine_with_statistics, typical_ids
from tests.helpers.tiny import make_model

LENGTHS = np.array([130, 64, 33, 16, 5, 2, 1])
SECONDS = np.array([100, 64, 20, 16, 3, 1, 1])


def model(folder: Any, size: int) -> Any:
    """Three heads of this size, and texts that are longer than two blocks."""
    sizes = {"hidden_size": 3 * size, "num_attention_heads": 3, "intermediate_size": 48}
    name = make_model(folder, max_position_embeddings=256, vocab_size=90, **sizes)
    return check_model(Model(name=name, max_length=200))


def batch(pair_starts: np.ndarray = LENGTHS) -> Batch:
    ids = typical_ids(LENGTHS, pair_starts)
    return Batch(ids, LENGTHS, pair_starts, None, with_statistics=True)


@pytest.mark.parametrize("queries", ["all", "content"])
@pytest.mark.parametrize("pair_starts", [LENGTHS, SECONDS])
@pytest.mark.parametrize("size", [16, 32])
def test_statistics_are_those_of_transformers_weights(size, pair_starts, queries, tmp_path):
    spec = model(tmp_path / "model", size)
    engine = engine_with_statistics(spec, queries=queries)
    engine._statistics.use_one_pass("cuda")
    agrees(engine, spec, LENGTHS, pair_starts, queries)


def test_answers_are_those_of_tiles(tmp_path):
    engine = engine_with_statistics(model(tmp_path / "model", 16))
    wanted = engine.start(batch()).answer()
    engine._statistics.use_one_pass("cuda")
    np.testing.assert_allclose(engine.start(batch()).answer(), wanted, rtol=1e-4, atol=1e-5)


def layout(names: list[str], counts_all: bool = True) -> Any:
    made = FusedStatistics(make_statistics(names), classes(), counts_all)
    return made.layout(batch(SECONDS), int(LENGTHS.sum()), "cpu")


def attended(names: list[str], dtype: torch.dtype, strided: bool = False) -> Any:
    """A layer's answer and statistics, of random numbers of some size."""
    torch.manual_seed(0)
    qkv = torch.randn(int(LENGTHS.sum()), 3, 2, 32) * torch.tensor([3, 1, 1])[:, None, None]
    qkv = qkv.to(dtype)
    made = layout(names)
    parts = qkv.unbind(1) if strided else [x.contiguous() for x in qkv.unbind(1)]
    answer = made.attend(*parts, None)
    return answer, made.statistics()[0]


def test_half_precision_is_near():
    answer, values = attended(list(STATISTICS), torch.float16)
    exact, wanted = attended(list(STATISTICS), torch.float32)
    assert float((answer.float() - exact).abs().max()) < 5e-3
    assert float(((values - wanted).abs() / wanted.abs().clamp(min=1)).max()) < 2e-3


@pytest.mark.parametrize("names", [["entropy"], ["received_max", "to_cls"], list(STATISTICS)[::-1]])
def test_some_statistics_are_the_same_as_among_all(names):
    _, every = attended(list(STATISTICS), torch.float32)
    _, some = attended(names, torch.float32)
    assert torch.equal(some, every[:, [list(STATISTICS).index(name) for name in names]])


def test_query_key_and_value_may_lie_in_one_tensor():
    apart, together = (attended(list(STATISTICS), torch.float32, s) for s in (False, True))
    assert torch.equal(apart[0], together[0])
    assert torch.equal(apart[1], together[1])


def test_what_has_no_kernel_is_named():
    statistic = make_statistics(["entropy"])[0]
    statistic.name = "new"
    with pytest.raises(ValueError, match="no kernel for new"):
        FusedStatistics([statistic], classes(), True)
    with pytest.raises(ValueError, match="heads of 26"):
        layout(["entropy"]).attend(*[torch.zeros(int(LENGTHS.sum()), 2, 26)] * 3, None)
