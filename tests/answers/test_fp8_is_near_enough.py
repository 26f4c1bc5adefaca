"""fp8 scores only where its products are right and its answers near enough: on a simulated GPU."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bertbatch.engines import fp8
from bertbatch.engines.engine import EngineOptions, check_settings, load_engine
from bertbatch.engines.fp8 import Fp8Linear
from bertbatch.engines.probe_texts import make_probe
from bertbatch.engines.quantization import check_products
from bertbatch.engines.scoring import score
from bertbatch.errors import JobError
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from bertbatch.model.tokenizer import Tokenizer
from tests.helpers.simulated_gpu import simulated
from tests.helpers.tiny import make_texts, settled

A100, H100 = (8, 0), (9, 0)


def layer(inputs: int = 64, outputs: int = 48) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs).to(torch.bfloat16)


@pytest.mark.parametrize("shape", [(7, 64), (1, 7, 64)])
def test_the_operator_is_its_formula(shape):
    linear = layer()
    x = (torch.randn(shape) * torch.logspace(-3, 3, 7)[:, None]).to(torch.bfloat16)
    with torch.inference_mode():
        got = Fp8Linear(linear)(x)
        wanted = fp8.formula(linear, x)
    assert got.shape == (*shape[:-1], 48)
    torch.testing.assert_close(got.float(), wanted, atol=1e-3, rtol=1e-2)


def test_the_formula_is_rounding():
    linear, x = layer().float(), torch.randn(7, 64)
    with torch.no_grad():
        linear.weight[3] = 0  # a row that needs no scale
    with torch.inference_mode():
        wanted, got = linear(x), fp8.formula(linear, x)
    assert 0 < float((got - wanted).abs().max()) < 0.1 * float(wanted.abs().max())


class Unscaled(Fp8Linear):
    """Products without the scales of tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / x.abs().amax(-1, keepdim=True))


def test_wrong_products_are_found():
    check_products([layer()], Fp8Linear, fp8.formula)
    with pytest.raises(ValueError, match="64 × 48 are off by"):
        check_products([layer()], Unscaled, fp8.formula)


def test_products_are_tried_on_the_gpu(monkeypatch):
    """A GPU that multiplies wrongly is found out, though the CPU does not."""
    spec = check_model(Model(dtype="fp8"))
    with simulated(H100) as gpu:
        operator = gpu.operator

        def wrong(func: Any, args: Any, kwargs: Any) -> Any:
            made = operator(func, args, kwargs)
            if "_scaled_mm" in str(func):
                return operator(torch.ops.aten.mul.Tensor, (made, made), {})
            return made

        monkeypatch.setattr(gpu, "operator", wrong)
        with pytest.raises(JobError, match=r"fp8: this processor's products of .* are off by"):
            settled(spec, Model(dtype="fp8"), device="cuda")


def test_the_packaged_model_is_near_enough_and_keeps_what_it_must():
    spec = check_model(Model(dtype="fp8"))
    tokenizer = Tokenizer(spec)
    tokens = tokenizer.encode([f"{text} was not good" for text in make_texts(40)])
    wanted = score(settled(spec, Model(dtype="float32")), tokens, 0, 40).answers.values
    with simulated(H100):
        engine = load_engine(spec, EngineOptions(Model(dtype="fp8"), "cuda", 1))
        engine.settle(make_probe(tokenizer, 64, sample=[]))
        got = score(engine, tokens, 0, 40).answers.values
    encoder: Any = engine._encoder  # type: ignore[attr-defined]
    kinds = [type(m).__name__ for m in encoder.modules()]
    assert kinds.count("Fp8Linear") == 3 * (spec.layers - 1)
    assert engine.dtype == "fp8"
    share, other = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (wanted, got))
    assert 0 < np.abs(share - other).mean() < 0.03


def test_what_loses_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(fp8, "LARGEST", 0.01)  # where there are few numbers
    spec = check_model(Model(dtype="fp8"))
    with simulated(H100), pytest.raises(JobError, match=r"fp8: .*(loses too much|are off by)"):
        settled(spec, Model(dtype="fp8"), device="cuda")


def test_older_gpus_are_refused():
    spec = check_model(Model(dtype="fp8"))
    with simulated(A100), pytest.raises(JobError, match=r"compute capability 8.0, and fp8 needs"):
        settled(spec, Model(dtype="fp8"), device="cuda")


def test_cpus_are_refused():
    with pytest.raises(JobError, match="fp8 is for GPUs"):
        check_settings(Model(dtype="fp8"), "cpu")
