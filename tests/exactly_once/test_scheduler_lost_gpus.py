"""The loop when GPUs are lost: the rows at fault alone end in quarantine."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertbatch.errors import DeviceLost, RunError
from bertbatch.runtime import failures
from bertbatch.runtime.scheduler import Scheduler
from bertbatch.units import Unit
from tests.helpers.simulated_executor import Simulation, make_units, one_by_one

pytestmark = pytest.mark.usefixtures("at_once")


class Gpus(Simulation):
    """Workers on GPUs: a bad row ends their use of it, for all that they do until replaced.

    `sick` workers have a GPU that fails `chance` of the ranges, whatever their rows.
    """

    def __init__(
        self, seed: int, workers: int, bad: set[tuple[str, int]], sick: int = -1, chance: float = 1
    ):
        super().__init__(seed, workers, 0.0, set())
        self._bad = bad
        self._sick = sick
        self._chance = chance
        self._lost = [False] * workers
        self._scored: set[tuple[str, int]] = set()
        self.fresh = 0

    def ready(self, worker: int) -> bool:
        return not self.fresh or self._rng.random() < 0.5

    def replace(self, worker: int) -> None:
        super().replace(worker)
        self._lost[worker] = False
        self.fresh += 1

    def _finish(self, handle: int) -> Any:
        kind, *what = self._work[handle]
        if kind != "score":
            return super()._finish(handle)
        worker, unit, first, stop = what
        failing = worker == self._sick and self._rng.random() < self._chance
        if failing or any((unit.id, row) in self._bad for row in range(first, stop)):
            self._lost[worker] = True
        if self._lost[worker]:
            self._queues[worker].remove(handle)
            return DeviceLost("CUDA error: device-side assert triggered")
        again = {(unit.id, row) for row in range(first, stop)} & self._scored
        assert not again, "what was scored is not scored again"
        self._scored |= {(unit.id, row) for row in range(first, stop)}
        return super()._finish(handle)


def run_on_gpus(simulation: Gpus, units: list[Unit]) -> dict[str, list[int]]:
    """The rows in quarantine, of each unit; all others were scored once and in order."""
    outcome = Scheduler(simulation, lambda r: None, lambda: False).run(one_by_one(units))
    assert not outcome.failed_units
    assert outcome.worker_deaths == simulation.fresh
    for unit in units:
        scored, quarantined = simulation.committed[unit.id]
        assert scored == [row for row in range(unit.rows) if row not in quarantined]
    return {unit.id: simulation.committed[unit.id][1] for unit in units}


@pytest.mark.parametrize("bad", [[5, 50, 95], [37], [37, 38], [0], [99], [0, 99], [15, 16, 17]])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_lost_gpu_costs_the_rows_at_fault_alone(workers, bad):
    units = make_units(1, 100)
    simulation = Gpus(0, workers, {("u0", row) for row in bad})
    assert run_on_gpus(simulation, units) == {"u0": bad}


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(0, 2**20), st.integers(1, 4), st.integers(1, 6), st.integers(1, 300))
def test_no_healthy_row_is_blamed_for_a_lost_gpu(data, seed, workers, count, rows):
    """Nor for a GPU that is at fault itself, if there is another one."""
    units = make_units(count, rows)
    places = st.tuples(st.integers(0, count - 1), st.integers(0, rows - 1))
    bad = {(f"u{unit}", row) for unit, row in data.draw(st.sets(places, max_size=5))}
    sick = data.draw(st.sampled_from([-1, 0])) if workers > 1 else -1
    chance = data.draw(st.sampled_from([0.2, 0.5, 1]))
    quarantined = run_on_gpus(Gpus(seed, workers, bad, sick, chance), units)
    for unit in units:
        assert quarantined[unit.id] == sorted(row for id_, row in bad if id_ == unit.id)


def test_a_suspect_does_not_wait_until_all_else_is_done():
    """The other worker has work of its own for the whole run."""
    simulation = Gpus(0, 2, {("u0", 7)})
    simulation.ready = lambda worker: True
    run_on_gpus(simulation, make_units(60, 20))
    assert list(simulation.committed).index("u0") < 40


def test_a_single_gpu_that_fails_always_ends_the_run():
    with pytest.raises(RunError, match=r"times in a row .*CUDA error"):
        Scheduler(Gpus(0, 1, set(), sick=0), lambda r: None, lambda: False).run(
            one_by_one(make_units(6, 200))
        )


def test_a_suspect_does_not_wait_forever_for_a_worker(monkeypatch):
    """The second worker is gone after the first failure, and no other comes in its place."""

    class Leaving(Gpus):
        def ready(self, worker: int) -> bool:
            return worker == 0 or not self.fresh

    monkeypatch.setattr(failures, "ELSEWHERE_SECONDS", 0.02)
    assert run_on_gpus(Leaving(0, 2, {("u0", 7)}), make_units(1, 40)) == {"u0": [7]}
