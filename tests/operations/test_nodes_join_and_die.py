"""Several nodes: real raylets on this machine, nodes that join, die, have GPUs or another disk."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from bertbatch.output.folder import open_output
from tests.helpers.command_line import finish, start, wait_for_parts
from tests.helpers.paths import WITH_FAULTS

pytestmark = pytest.mark.cluster

STORE = 100 << 20


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A head without work; scoring on every node is slow, and each loaded model leaves a line."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", WITH_FAULTS)
    monkeypatch.setenv("FAULT_SLEEP", "0.3")
    monkeypatch.setenv("FAULT_LOADS", str(tmp_path / "loads"))
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()


def run_there(cluster, model, corpus, out, *options):
    there = {"RAY_ADDRESS": cluster.address}
    return start(model, corpus, out, "--unit-rows", "15", *options, **there)


def ids(out):
    return sorted(pd.read_parquet(out)["id"])


def wait_for_workers(scores, count, process):
    """Until as many workers have scored: a node whose worker still loads loses no unit."""
    deadline = time.monotonic() + 120
    while not scores.exists() or len(set(scores.read_text().split())) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_node_costs_only_its_units(cluster, corpus, tmp_path, tiny_model, monkeypatch):
    out, scores = tmp_path / "out", tmp_path / "scores"
    monkeypatch.setenv("FAULT_SCORES", str(scores))
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    other = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    process = run_there(cluster, tiny_model, corpus, out)
    wait_for_workers(scores, 2, process)
    wait_for_parts(out, 6, process)
    committed = {p: p.stat().st_mtime_ns for p in out.glob("*.parquet")}
    cluster.remove_node(other, allow_graceful=False)
    code, said = finish(process)
    assert code == 0, said
    assert "was lost with its node" in said
    assert ids(out) == list(range(600))
    (record,) = open_output(str(out)).runs()
    assert record["rows_quarantined"] == 0
    assert record["worker_deaths"] == 1
    assert {p: p.stat().st_mtime_ns for p in committed} == committed


def test_an_added_node_is_used(cluster, corpus, tmp_path, tiny_model):
    out = tmp_path / "out"
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    process = run_there(cluster, tiny_model, corpus, out)
    wait_for_parts(out, 2, process)
    assert len((tmp_path / "loads").read_text().split()) == 1
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    code, said = finish(process)
    assert code == 0, said
    assert "room for one more model worker: 2 now" in said
    assert len(set((tmp_path / "loads").read_text().split())) == 2
    assert ids(out) == list(range(600))
    (record,) = open_output(str(out)).runs()
    assert record["chosen"]["workers"] == 2


def test_workers_share_gpus_as_ray_counts_them(cluster, corpus, tmp_path, tiny_model):
    """Two workers on the one node with a GPU; torch finds none there, so they score on its CPU."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("the GPU here is real")
    out = tmp_path / "out"
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=STORE)
    process = run_there(cluster, tiny_model, corpus, out, "--set", "runtime.gpus_per_worker=0.5")
    code, said = finish(process)
    assert code == 0, said
    assert "torch finds none" in said
    assert "; 2 workers" in said
    assert ids(out) == list(range(600))
    refused = run_there(
        cluster, tiny_model, corpus, tmp_path / "o2", "--set", "runtime.device=cuda"
    )
    code, said = finish(refused)
    assert code == 2
    assert "cuda" in said.lower()
    assert "Traceback" not in said


def test_workers_are_asked_for_before_there_is_a_node(cluster, corpus, tmp_path, tiny_model):
    """What an autoscaler sees: workers that wait for a node, and begin when it comes."""
    out = tmp_path / "out"
    process = run_there(cluster, tiny_model, corpus, out, "--set", "runtime.workers=2")
    time.sleep(20)  # time enough to load a model, if there were room for it
    assert process.poll() is None
    assert not (tmp_path / "loads").exists()
    cluster.add_node(num_cpus=2, object_store_memory=STORE)
    code, said = finish(process)
    assert code == 0, said
    assert ids(out) == list(range(600))


def test_an_output_on_each_node_of_its_own_is_refused(cluster, corpus, tmp_path, tiny_model):
    """One node has another disk at the output's path: a file system of its own."""
    out = tmp_path / "out"
    out.mkdir()
    unshare = shutil.which("unshare")
    alone = [unshare or "", "--mount", "sh", "-c"]
    if not unshare or subprocess.run([*alone, f"mount -t tmpfs none {out}"]).returncode:
        pytest.skip("needs the right to mount")
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    ray = Path(sys.executable).parent / "ray"
    node = subprocess.Popen(
        [
            *alone,
            f"mount -t tmpfs none {out} && exec {ray} start --address={cluster.address} --block "
            f"--num-cpus=1 --disable-usage-stats --object-store-memory={STORE}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        count = "import ray; ray.init(log_to_driver=False); print(len(ray.nodes()))"
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            done = subprocess.run(
                [sys.executable, "-c", count], capture_output=True, text=True, env=environment
            )
            if done.stdout.strip().endswith("3"):
                break
        code, said = finish(run_there(cluster, tiny_model, corpus, out))
        assert code == 2, said
        assert "is not the same folder on every node" in said
        assert not list(out.glob("*.parquet"))
        assert not (out / "_bertbatch" / "lease.json").exists()
    finally:
        node.terminate()
        node.wait(30)
