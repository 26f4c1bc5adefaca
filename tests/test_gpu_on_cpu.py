"""What is decided for GPUs, checked where there is none."""

from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertbatch.runners import on_ray
from bertbatch.runners.on_ray import RayExecutor


def fitting(monkeypatch: pytest.MonkeyPatch, gpus: list[float], share: float) -> int:
    """The workers that a cluster of nodes with so many GPUs has room for, by the runner."""
    monkeypatch.setattr(on_ray, "_resources", lambda: ([8] * len(gpus), gpus))
    executor = object.__new__(RayExecutor)
    executor._device = "cuda"
    runtime = SimpleNamespace(gpus_per_worker=share)
    executor._context = SimpleNamespace(job=SimpleNamespace(runtime=runtime))
    return executor._fit()


@pytest.mark.parametrize(
    ("share", "each"),
    [(1, 1), (0.7, 1), (0.5, 2), (0.34, 2), (1 / 3, 3), (0.3, 3), (0.25, 4), (0.1, 10)]
    + [(1 / n, n) for n in range(2, 50)],
)
@pytest.mark.parametrize("gpus", [[8.0], [1.0, 0.0, 4.0], [1.0] * 7])
def test_a_worker_lies_on_one_gpu(share, each, gpus, monkeypatch):
    assert fitting(monkeypatch, gpus, share) == sum(gpus) * each


@given(st.floats(0.0001, 1))
def test_as_many_workers_as_fit_on_a_gpu_and_no_more(share):
    of_it = Fraction(int(share * 10_000), 10_000)  # as Ray counts
    each = on_ray._to_a_gpu(share)
    assert each * of_it <= 1 < (each + 1) * of_it
