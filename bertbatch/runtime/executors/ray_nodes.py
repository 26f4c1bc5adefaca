"""What Ray knows of a cluster's nodes."""

import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

RAYLET_SECONDS = 2.0  # for a node's raylet to accept a connection
LOOK_SECONDS = 60  # for a node to look for a file


@dataclass(frozen=True)
class Resources:
    """Cores and GPUs of each node that is there; `store` bytes of their object stores in all."""

    cores: list[int]
    gpus: list[float]
    store: int


def resources() -> Resources:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Resources(
        cores=[int(node.get("CPU", 0)) for node in nodes],
        gpus=[float(node.get("GPU", 0)) for node in nodes],
        store=int(sum(node.get("object_store_memory", 0) for node in nodes)),
    )


def to_a_gpu(share: float) -> int:
    """How many workers that take this share of a GPU fit on one: none lies across two.

    Ray counts whole ten-thousandths, rounded down, so that three of 1/3 fit.
    """
    return 10_000 // max(int(share * 10_000), 1)


def is_gone(id_: str | None) -> bool:
    """Whether a node is gone, as its raylet tells: Ray itself notices only after many seconds."""
    for node in ray.nodes():
        if node["NodeID"] == id_ and node["Alive"]:
            address = (node["NodeManagerAddress"], node["NodeManagerPort"])
            try:
                socket.create_connection(address, timeout=RAYLET_SECONDS).close()
            except OSError:
                return True
            return False
    return id_ is not None


def blind_nodes(path: str, content: str) -> list[str]:
    """The nodes that do not see a file with this content at a local path."""
    here = ray.get_runtime_context().get_node_id()
    asked = {}
    for node in ray.nodes():
        works = node["Alive"] and node["Resources"].get("CPU", 0) > 0
        if not works or node["NodeID"] == here:
            continue
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[_sees.options(scheduling_strategy=there).remote(path, content)] = node
    if not asked:
        return []
    done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=LOOK_SECONDS)
    blind = []
    for ref in done:
        with suppress(RayError):  # a node that has gone meanwhile writes nothing
            if not ray.get(ref):
                blind.append(str(asked[ref]["NodeManagerHostname"]))
    return blind


@ray.remote(num_cpus=0, max_retries=2)
def _sees(path: str, content: str) -> bool:
    try:
        return content in Path(path).read_text()
    except OSError:
        return False
