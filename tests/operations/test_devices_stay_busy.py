"""Devices do not wait for readers: in virtual time, and on Ray with stages that sleep."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulate import shape_of, simulate
from bertbatch.job.schema import Runtime
from bertbatch.plan.unit_size import (
    MOST_MIB,
    TOKENS_PER_MIB,
    UNITS_PER_SECOND,
    auto_mib,
    cut_size,
)
from bertbatch.runtime.executors import ray_stages
from bertbatch.runtime.executors.ray import RayExecutor
from bertbatch.runtime.scheduler import Scheduler
from bertbatch.runtime.work import ReadTask
from tests.helpers import sleeping_stages
from tests.helpers.paths import ROOT
from tests.helpers.simulated_executor import make_units

BERT_BASE, MINILM = 2.2e6, 9e6  # tokens/s of a device
PLAIN, CACHED = 417e3, 1.2e6  # tokens/s that a core reads


@pytest.mark.parametrize(
    ("devices", "cores", "device_rate", "core_rate", "busy"),
    [
        (1, 16, BERT_BASE, PLAIN, 0.95),
        (8, 128, BERT_BASE, PLAIN, 0.95),
        (64, 1024, BERT_BASE, PLAIN, 0.92),
        (8, 128, MINILM, CACHED, 0.92),
        pytest.param(512, 8192, BERT_BASE, CACHED, 0.90, id="512"),
    ],
)
def test_devices_are_busy_in_virtual_time(devices, cores, device_rate, core_rate, busy):
    found = simulate(shape_of(devices, cores, device_rate, core_rate))
    assert found.busy >= busy
    assert found.driver < 0.6


def test_few_cores_are_all_used_for_reading():
    """Then reading is what takes the time, and no core may wait."""
    found = simulate(shape_of(1, 4, BERT_BASE, PLAIN), units_each=400)
    assert found.readers > 0.85 * 3
    assert found.tokens_per_second > 0.85 * 3 * PLAIN


@given(st.integers(1, 4096), st.floats(1e3, 1e8), st.integers(1, 1 << 44))
def test_units_are_as_large_as_the_driver_needs(workers, rate, size):
    cut = cut_size(Runtime(), size, workers, rate)
    units = workers * rate / (auto_mib(workers, rate) * TOKENS_PER_MIB)  # a second
    assert units <= UNITS_PER_SECOND * 1.001 or auto_mib(workers, rate) == MOST_MIB
    assert 1 << 16 <= cut.text_bytes <= auto_mib(workers, rate) * (1 << 20)
    assert size // cut.text_bytes >= min(16 * workers, size >> 16)  # every worker has some
    assert cut_size(Runtime(unit_mib=2), size, workers, rate).text_bytes == 2 << 20


@pytest.mark.cluster
def test_as_many_units_are_read_as_cores_are_free(tmp_path, monkeypatch):
    """A node that declares 16 cores and a GPU; tasks of four units, each read for a second."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(sleeping_stages.TIMES, str(tmp_path / "times"))
    for name in ("make_probes", "read", "commit", "Scorer"):
        monkeypatch.setattr(ray_stages, name, getattr(sleeping_stages, name))
    node = {"num_cpus": 16, "num_gpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    runtime = SimpleNamespace(device="auto", workers="auto", gpus_per_worker=1)
    context: Any = SimpleNamespace(job=SimpleNamespace(runtime=runtime))
    records: Counter[str] = Counter()
    try:
        executor = RayExecutor(context)
        scheduler = Scheduler(executor, lambda r: records.update([r.unit]), lambda: False)
        units = make_units(80, 10)
        scheduler.run(iter([ReadTask(units[i : i + 4]) for i in range(0, 80, 4)]))
        executor.close()
    finally:
        cluster.shutdown()
    assert records == Counter(unit.id for unit in units)
    lines = (tmp_path / "times").read_text().splitlines()
    spans = [tuple(map(float, line.split())) for line in lines]
    at_once = [sum(began <= then < ended for began, ended in spans) for then, _ in spans]
    assert 12 <= max(at_once) <= 15
