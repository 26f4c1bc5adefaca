"""Stages for Ray that only sleep, so that a machine can stand for one with many cores and a GPU."""

import os
import time
from threading import Lock
from typing import Any

import ray

from bertbatch.runtime.counts import Counts, Record
from bertbatch.runtime.executors import ray_stages

READ, SCORE = 1.0, 0.1  # seconds a unit
SHARE = ray_stages.TASK_SHARE
TIMES = "SLEEPING_STAGES_TIMES"  # the file that gets a line for each read: when it began and ended


@ray.remote(num_cpus=SHARE)
def make_probes(context: Any) -> None:
    """Nothing is tried."""


@ray.remote(num_cpus=SHARE, scheduling_strategy="SPREAD")
def read(context: Any, units: list[Any]) -> Any:
    began = time.time()
    time.sleep(READ * len(units))
    with open(os.environ[TIMES], "a") as file:
        file.write(f"{began} {time.time()}\n")
    return [unit.rows for unit in units], *[None for unit in units for _ in range(2)]


@ray.remote(num_cpus=SHARE)
def commit(context: Any, unit: Any, poison: Any, passthrough: Any, *pieces: Any) -> Record:
    return Record(unit.id, True, Counts(unit.rows))


class Scorer:
    def __init__(self, context: Any, device: str, threads: int):
        self._turn = Lock()

    def loaded(self) -> tuple[str, tuple[str, ...]]:
        return ray.get_runtime_context().get_node_id(), ("sleeper",)

    def settle(self, probes: Any, known: Any) -> list[dict[str, Any]]:
        return [self._describe()]

    def _describe(self) -> dict[str, Any]:
        plain = {"measured": {}, "reason": "", "slower": 1.0, "kernels_missing": False}
        return {"kind": "sleeper", "device": "cuda", **plain}

    @ray.method(num_returns=2)
    def score(self, tokens: Any, first: int, stop: int) -> tuple[list[dict[str, Any]], None]:
        with self._turn:
            time.sleep(SCORE)
        return [self._describe()], None
