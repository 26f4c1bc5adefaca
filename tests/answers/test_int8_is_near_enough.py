"""int8 scores only where it was tried, on this processor and this model, and found near enough."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from bertbatch import run
from bertbatch.engines import int8, quantization, torch_engine
from bertbatch.engines.engine import EngineOptions, load_engine
from bertbatch.engines.probe_texts import make_probe
from bertbatch.engines.quantization import check_products
from bertbatch.errors import JobError
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from bertbatch.model.tokenizer import Tokenizer
from bertbatch.native.kernels import find_kernels
from tests.helpers.classifiers import save
from tests.helpers.jobs import make_job
from tests.helpers.operators import remove
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts, settled

needed = pytest.mark.skipif(
    find_kernels() is None, reason="no kernels were built for this processor"
)


class ByFormula(nn.Module):
    """Int8Linear on a processor whose products are right, whatever the one at hand does."""

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__()
        self._held, self._gelu = (linear,), activation == "gelu"  # no child that is rounded again

    @property
    def _linear(self) -> nn.Linear:
        return self._held[0]

    def forward(self, x: Tensor) -> Tensor:
        y = int8.formula(self._linear, x)
        return nn.functional.gelu(y) if self._gelu else y

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        return self(x) + residual


class Saturating(ByFormula):
    """As processors without VNNI add: two products of 8 bits in a sum of 16."""

    def forward(self, x: Tensor) -> Tensor:
        scales, weight = int8._rounded(self._linear.weight)
        least, most = torch.aminmax(x, dim=-1, keepdim=True)
        scale = (most - least).clamp(min=1e-8) / 255
        steps = ((x - least) / scale).round()
        products = (steps[..., None, :] * weight).unflatten(-1, (-1, 2)).sum(-1)
        whole = products.clamp(-(2**15), 2**15 - 1).sum(-1) * scale
        return (whole + least * weight.float().sum(-1)) * scales + self._linear.bias


class Exact(ByFormula):
    """A quantization that loses nothing."""

    def forward(self, x: Tensor) -> Tensor:
        y = self._linear(x)
        return nn.functional.gelu(y) if self._gelu else y


@needed
def test_the_formula_is_rounding():
    torch.manual_seed(0)
    linear = nn.Linear(32, 40)
    with torch.no_grad():
        linear.weight[3] = 0  # a row that needs no scale
    x = torch.randn(1, 7, 32)
    scales = linear.weight.abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
    weight = (linear.weight / scales).round() * scales
    least = x.amin(-1, keepdim=True)
    step = (x.amax(-1, keepdim=True) - least) / find_kernels().int8_steps
    rounded = ((x - least) / step).round() * step + least
    wanted = nn.functional.linear(rounded, weight, linear.bias)
    with torch.inference_mode():
        torch.testing.assert_close(int8.formula(linear, x), wanted, atol=1e-4, rtol=0)


@needed
@pytest.mark.parametrize("shape", [(384, 1536), (1536, 384), (24, 8)])
def test_products_that_saturate_are_found(shape):
    layers = [nn.Linear(*shape)]
    check_products(layers, ByFormula, int8.formula)
    with pytest.raises(ValueError, match=f"{shape[0]} × {shape[1]} are off by .*16 bits"):
        check_products(layers, Saturating, int8.formula)


def judged(got: list[list[float]], wanted: list[list[float]], kind: str) -> str:
    try:
        quantization.check_answers(np.array(got), np.array(wanted), kind)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("kind", "wanted", "got", "why"),
    [
        ("single_label_classification", [[0, 0]] * 9, [[0, 0.03]] * 9, ""),
        ("single_label_classification", [[0, 0]] * 9, [[0, 0.05]] * 9, "0.012 on average"),
        ("single_label_classification", [[0, 0]] * 99, [[0, 0.7]] + [[0, 0]] * 98, "0.17 at most"),
        ("single_label_classification", [[0, 0.1]] * 9, [[0.1, 0.09]] + [[0, 0.1]] * 8, ""),
        ("multi_label_classification", [[0, 3.0]] * 9, [[0.04, 3.0]] * 9, ""),
        ("multi_label_classification", [[0, 3.0]] * 9, [[0.09, 3.0]] * 9, "0.011 on average"),
        ("regression", [[1000.0], [1001.0]], [[1000.006], [1001.0]], ""),
        ("regression", [[1000.0], [1001.0]], [[1000.1], [1001.0]], "0.05 on average"),
        ("single_label_classification", [[0, 0]] * 9, [[0, float("nan")]] * 9, "nan on average"),
    ],
)
def test_answers_are_held_to_their_limits(kind, wanted, got, why):
    assert why in judged(got, wanted, kind)
    assert bool(why) == bool(judged(got, wanted, kind))


def test_a_clear_label_must_stay():
    wanted = np.zeros((999, 2))
    wanted[:, 1] = 5
    wanted[0, 1] = 0.42  # a lead of 0.207
    got = wanted.copy()
    got[0] = [0.1, 0]
    assert "1 clear labels" in judged(got.tolist(), wanted.tolist(), "single_label_classification")


class Coarse(ByFormula):
    """One scale for all rows of x, of 15 steps: it loses too much."""

    def forward(self, x: Tensor) -> Tensor:
        step = (x.max() - x.min()) / 15
        y = self._linear((x / step).round() * step)
        return nn.functional.gelu(y) if self._gelu else y


@needed
def test_the_packaged_model_keeps_its_answers(tmp_path):
    """Two texts say too little, however often they are repeated: others are added."""
    write_parquet(tmp_path / "in.parquet", ["a good film", "a bad film"] * 40)
    scores = {}
    for dtype in ("int8", "float32"):
        keys = {"model.dtype": dtype, "runtime.runner": "inline"}
        job = make_job("sentiment-mini", tmp_path / "in.parquet", tmp_path / dtype, **keys)
        scores[dtype] = np.stack(run(job).to_pandas()["scores"])
    off = np.abs(scores["int8"] - scores["float32"])
    assert 0 < off.max() < 0.1


@needed
def test_a_model_that_loses_too_much_is_refused_with_the_figure(monkeypatch):
    monkeypatch.setattr(int8, "Int8Linear", Coarse)
    monkeypatch.setattr(int8, "formula", lambda linear, x: Coarse(linear)(x))
    spec = check_model(Model(dtype="int8", max_length=64))
    engine = load_engine(spec, EngineOptions(Model(dtype="int8"), "cpu", 1))
    with pytest.raises(JobError, match=r"loses too much: on 64 answers .* 0.\d+ on average"):
        engine.settle(make_probe(Tokenizer(spec), 64, sample=[]))


def test_without_kernels_int8_is_refused(tiny_model, tmp_path, monkeypatch):
    remove(["native"], monkeypatch)
    write_parquet(tmp_path / "in.parquet", make_texts(20))
    keys = {"model.dtype": "int8", "runtime.runner": "inline"}
    job = make_job(tiny_model, tmp_path / "in.parquet", tmp_path / "out", **keys)
    with pytest.raises(JobError, match=r"model.dtype int8: its kernels are not on this machine"):
        run(job)
    assert not (tmp_path / "out").exists()


@needed
def test_what_loses_nothing_is_scored_and_is_another_output(
    tiny_model, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(int8, "Int8Linear", Exact)
    monkeypatch.setattr(int8, "formula", lambda linear, x: linear(x))
    write_parquet(tmp_path / "in.parquet", make_texts(40))

    def go(dtype: str) -> Any:
        keys = {"model.dtype": dtype}
        return run(make_job(tiny_model, tmp_path / "in.parquet", tmp_path / "out", **keys))

    assert go("int8").exit_code == 0
    assert "int8 changes answers" in caplog.text
    with pytest.raises(JobError, match=r"quantization: 'int8' in the output, not set in the job"):
        go("float32")


@needed
def test_the_jobs_own_first_rows_are_the_sample(tiny_model, tmp_path, monkeypatch):
    seen: list[np.ndarray] = []
    monkeypatch.setattr(int8, "Int8Linear", Exact)
    monkeypatch.setattr(int8, "formula", lambda linear, x: linear(x))
    monkeypatch.setattr(
        torch_engine, "check_answers", lambda got, wanted, kind: seen.append(wanted)
    )
    texts = list(dict.fromkeys(text[:60] for text in make_texts(99, seed=5)))[:64]
    write_parquet(tmp_path / "in.parquet", [*texts[:9], None, *texts[:9], *texts[9:]])
    for dtype in ("int8", "float32"):
        keys = {"model.dtype": dtype}
        run(make_job(tiny_model, tmp_path / "in.parquet", tmp_path / dtype, **keys))
    (sample,) = (torch.softmax(torch.from_numpy(each), -1)[:, 0].tolist() for each in seen)
    scores = pd.read_parquet(tmp_path / "float32")["scores"].str[0]
    assert sorted(sample) == pytest.approx(sorted(scores[9:]), abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "device", "message"),
    [
        pytest.param("rembert", "cpu", "does not support it", marks=needed),
        ("bert", "cuda", "is for CPUs"),
    ],
)
def test_int8_is_refused_where_it_cannot_be(kind, device, message, tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "Int8Linear", ByFormula)
    spec = save(tmp_path / kind, kind)
    with pytest.raises(JobError, match=message):
        settled(spec, Model(dtype="int8"), device=device)
