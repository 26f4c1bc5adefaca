"""Operators are timed once for a kind of processor; wrong ones are never taken."""

import time
from typing import Any

import pytest
import torch
from torch import Tensor

from bertbatch import run
from bertbatch.engines import torch_engine
from bertbatch.engines.linear_operators import ADDMM, LINEAR, TransposedLinear
from bertbatch.engines.operator_choice import choose_operators, seconds_for
from bertbatch.engines.packing import Packing
from bertbatch.job.model import Model
from bertbatch.model.loading import load
from bertbatch.model.spec import check_model
from tests.helpers.jobs import make_job
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts


class Slow(TransposedLinear):
    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.02)
        return super().forward(x)


class Wrong(TransposedLinear):
    """By a little more than an operator may be."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + 3e-5 * y.abs().max()


@pytest.fixture
def encoder(tiny_model: str) -> Any:
    return Packing(load(check_model(Model(name=tiny_model)), "cpu", "float32"), True, 64).encoder


@pytest.fixture
def operators(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the operators that there are, in this order."""

    def only(**there: Any) -> None:
        for name in [*LINEAR]:
            monkeypatch.delitem(LINEAR, name)
        for name, operator in there.items():
            monkeypatch.setitem(LINEAR, name, operator)

    return only


def linears(chosen: dict[str, str]) -> set[str]:
    return {operator for key, operator in chosen.items() if key[0].isdigit()}


def test_the_fastest_is_taken(encoder, operators):
    operators(slow=Slow, addmm=TransposedLinear)
    assert linears(choose_operators(encoder, 4, 64, seconds=3)) == {ADDMM}


def test_the_first_is_taken_where_there_is_no_time(encoder, operators):
    operators(slow=Slow, addmm=TransposedLinear)
    assert linears(choose_operators(encoder, 4, 64, seconds=0)) == {"slow"}


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_wrong_one_is_never_taken(seconds, encoder, operators):
    operators(wrong=Wrong, slow=Slow)
    assert linears(choose_operators(encoder, 4, 64, seconds)) == {"slow"}


def test_timing_takes_a_share_of_the_run():
    layers = torch.nn.Linear(1000, 1000, bias=False)
    assert seconds_for(10**5, layers) == pytest.approx(0.02 * 2 * 1e6 * 1e5 / 5e10)
    assert seconds_for(10**9, layers) == 3


def test_later_runs_use_what_was_chosen(tiny_model, tmp_path, monkeypatch):
    def go() -> dict[str, Any]:
        result = run(make_job(tiny_model, tmp_path / "in", tmp_path / "out", **keys))
        assert result.exit_code == 0
        kinds: dict[str, Any] = result.output.runs()[-1]["chosen"]["kinds"]
        return kinds

    keys = {"runtime.runner": "inline"}
    write_parquet(tmp_path / "in" / "a.parquet", make_texts(40))
    before = go()
    ((kind, chosen),) = before.items()
    assert chosen["operators"]["attention"]
    monkeypatch.setattr(torch_engine, "choose_operators", None)  # no timing again
    write_parquet(tmp_path / "in" / "b.parquet", make_texts(40, seed=1))
    assert go()[kind]["operators"] == chosen["operators"]
