"""Attention by distances in the Triton kernel, in Triton's interpreter: `make test-kernels`."""

import os
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: make test-kernels")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1: make test-kernels", allow_module_level=True)

from bertbatch.engines.fused_relative import RelativeLayout
from bertbatch.engines.packing import by_length, in_one_kernel
from bertbatch.engines.relative_attention import Biased, Disentangled
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from bertbatch.model.tokens import Batch
from tests.helpers.architectures import save
from tests.helpers.attention_reference import typical_ids
from tests.helpers.tiny import settled

LENGTHS = np.array([130, 64, 33, 16, 5, 2, 1])
LONGEST = 144


def tensors(size: int, dtype: torch.dtype) -> list[Any]:
    torch.manual_seed(0)
    total = int(LENGTHS.sum())
    return [torch.randn(total, 3, size).to(dtype) * size**-0.25 for _ in range(3)]


def table(size: int, dtype: torch.dtype) -> Any:
    return (torch.randn(3, 2 * LONGEST - 1, size) * size**-0.25).to(dtype)


def compared(bias: Any, size: int, dtype: torch.dtype = torch.float32) -> float:
    total = int(LENGTHS.sum())
    given = tensors(size, dtype)
    got = RelativeLayout(LENGTHS, total, "cpu").attend(*given, 0.7, bias=bias)
    wanted = by_length(LENGTHS, total, "cpu").attend(*given, 0.7, bias=bias)
    return float((got.float() - wanted.float()).abs().max())


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("terms", ["keys", "queries", "both", "none", "scalars"])
def test_answers_are_those_of_dense_attention(size, terms):
    keys, queries = (table(size, torch.float32) for _ in range(2))
    made = {
        "keys": Disentangled(keys, None),
        "queries": Disentangled(None, queries),
        "both": Disentangled(keys, queries),
        "none": Disentangled(None, None),
        "scalars": Biased(torch.randn(3, 2 * LONGEST - 1)),
    }
    assert compared(made[terms], size) < 1e-5


def test_half_precision_is_near():
    bias = Disentangled(*(table(32, torch.float16) for _ in range(2)))
    assert compared(bias, 32, torch.float16) < 1e-2


@pytest.mark.parametrize("kind", ["deberta-v2", "mpnet"])
def test_models_answer_the_same(kind, tmp_path, monkeypatch):
    sizes = {"hidden_size": 48, "num_attention_heads": 3, "max_position_embeddings": 160}
    if kind == "deberta-v2":
        sizes |= {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}
    monkeypatch.setattr("tests.helpers.architectures.OWN", {kind: sizes})
    save(kind, tmp_path / "model")
    spec = check_model(Model(name=str(tmp_path / "model"), max_length=140))
    engine = settled(spec, Model(dtype="float32"))
    batch = Batch(typical_ids(LENGTHS, LENGTHS), LENGTHS, LENGTHS)
    wanted = engine.start(batch).answer()
    assert np.ptp(wanted, axis=0).min() > 0.01
    engine._layout = in_one_kernel
    np.testing.assert_allclose(engine.start(batch).answer(), wanted, rtol=1e-4, atol=1e-5)


def test_what_has_no_kernel_is_named():
    layout = RelativeLayout(LENGTHS, int(LENGTHS.sum()), "cpu")
    with pytest.raises(ValueError, match="heads of 26"):
        layout.attend(*tensors(26, torch.float32), 1.0, bias=Disentangled(None, None))
