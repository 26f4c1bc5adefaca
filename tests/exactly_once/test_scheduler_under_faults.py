"""The loop under random faults: whatever dies or raises, every row ends in one place.

The executor here is a simulation (seeded, one event at a time); the loop is the real one.
"""

import errno
import random
from collections import Counter
from collections.abc import Hashable
from typing import Any

import pyarrow as pa
import pytest

from bertbatch.errors import DataLost, RunError, SourceError
from bertbatch.runtime.executors.executor import NodeGone, WorkerDied
from bertbatch.runtime.scheduler import Scheduler
from bertbatch.runtime.work import ReadTask
from tests.helpers.simulated_executor import Simulation, make_units, one_by_one

pytestmark = pytest.mark.usefixtures("at_once")


@pytest.mark.parametrize("seed", range(120))
def test_every_row_once_whatever_dies(seed):
    rng = random.Random(seed)
    units = make_units(rng.randint(1, 12), rng.choice([1, 2, 17, 40, 300]))
    every = [(unit.id, row) for unit in units for row in range(unit.rows)]
    poison = set(rng.sample(every, min(len(every), rng.choice([0, 0, 1, 3]))))
    faults = rng.choice([0.0, 0.02, 0.1])
    simulation = Simulation(seed, rng.randint(1, 4), faults, poison)
    records: Counter[str] = Counter()
    loop = Scheduler(simulation, lambda r: records.update([r.unit]), lambda: False)
    outcome = loop.run(one_by_one(units))
    assert not outcome.failed_units
    assert records == Counter(unit.id for unit in units)
    for unit in units:
        scored, quarantined = simulation.committed[unit.id]
        assert sorted(scored + quarantined) == list(range(unit.rows))
        assert scored == sorted(scored)
        here = {row for id_, row in poison if id_ == unit.id}
        assert here <= set(quarantined)
        if not faults:
            assert here == set(quarantined)
    assert simulation.deepest <= 2


class Nodes(Simulation):
    """Nodes come and go, with the workers and the data on them."""

    def adapt(self) -> None:
        if self.workers < 5 and self._rng.random() < 0.02:
            self.workers += 1
            self._queues.append([])

    def _finish(self, handle: int) -> Any:
        kind, *what = self._work[handle]
        chance = self._rng.random()
        if kind == "read" and chance < 0.05:
            return WorkerDied("with its node")
        if kind == "commit" and chance < 0.1:
            return DataLost("scores")
        if kind == "score" and chance < 0.3:
            if chance < 0.05:
                self._queues[what[0]].remove(handle)
                return DataLost("tokens")
            for waiting in self._queues[what[0]]:
                self._done[waiting] = NodeGone("gone")
            return NodeGone("gone")
        return super()._finish(handle)


@pytest.mark.parametrize("seed", range(60))
def test_nodes_that_come_and_go_cost_no_row(seed):
    units = make_units(12, 300)
    simulation = Nodes(seed, 1 + seed % 3, 0.0, set())
    outcome = Scheduler(simulation, lambda r: None, lambda: False).run(one_by_one(units))
    assert not outcome.failed_units
    assert simulation.committed == {unit.id: (list(range(300)), []) for unit in units}


def test_a_unit_that_takes_its_nodes_along_is_found_out():
    """A row that takes all of a container's memory takes the node: it is no innocent for ever."""

    class Hungry(Simulation):
        def _finish(self, handle: int) -> Any:
            kind, *what = self._work[handle]
            if kind == "score" and what[1].id == "u1" and what[2] <= 7 < what[3]:
                for waiting in self._queues[what[0]]:
                    self._done[waiting] = NodeGone("gone")
                return NodeGone("gone")
            return super()._finish(handle)

    units = make_units(4, 40)
    simulation = Hungry(0, 2, 0.0, set())
    outcome = Scheduler(simulation, lambda r: None, lambda: False).run(one_by_one(units))
    assert not outcome.failed_units
    assert simulation.committed["u1"][1] == [7]
    assert outcome.worker_deaths < 20


@pytest.mark.parametrize("stage", ["score", "commit"])
def test_lost_data_whose_source_is_gone_fails_its_source(stage):
    """No row is to blame for tokens that were lost and cannot be read again."""

    class Lost(Simulation):
        def _finish(self, handle: int) -> Any:
            kind, *what = self._work[handle]
            if kind == stage and "u1" in (getattr(each, "id", "") for each in what):
                if kind == "score":
                    self._queues[what[0]].remove(handle)
                return SourceError("a", "has changed since it was planned")
            return super()._finish(handle)

    units = make_units(4, 10)
    simulation = Lost(0, 2, 0.0, set())
    outcome = Scheduler(simulation, lambda r: None, lambda: False).run(one_by_one(units))
    assert outcome.failed_sources == {"a": "has changed since it was planned"}
    assert list(outcome.failed_units) == ["u1"]
    assert set(simulation.committed) == {"u0", "u2", "u3"}


def test_workers_that_join_are_used():
    class Joining(Simulation):
        def adapt(self) -> None:
            if self.committed and self.workers < 3:
                self.workers += 1
                self._queues.append([])

        def score(self, worker: int, tokens: Any, first: int, stop: int) -> Hashable:
            used.add(worker)
            return super().score(worker, tokens, first, stop)

    used: set[int] = set()
    units = make_units(40, 10)
    Scheduler(Joining(0, 1, 0.0, set()), lambda r: None, lambda: False).run(one_by_one(units))
    assert used == {0, 1, 2}


def test_a_unit_whose_reader_always_dies_fails_alone():
    class Deadly(Simulation):
        def _finish(self, handle: int) -> Any:
            kind, *what = self._work[handle]
            if kind == "read" and what[0][0].id == "u1":
                deaths.append(handle)
                return WorkerDied("while reading")
            return super()._finish(handle)

    deaths: list[int] = []
    units = make_units(4, 10)
    simulation = Deadly(0, 2, 0.0, set())
    outcome = Scheduler(simulation, lambda r: None, lambda: False).run(one_by_one(units))
    assert list(outcome.failed_units) == ["u1"]
    assert len(deaths) == 6
    assert set(simulation.committed) == {"u0", "u2", "u3"}


NO_ROOM = OSError(errno.ENOSPC, "No space left on device")
TOO_LONG = OSError(errno.ENAMETOOLONG, "File name too long")


@pytest.mark.parametrize(
    ("error", "refused", "given_up", "stopped"),
    [
        (NO_ROOM, range(3, 99), 4, True),
        (NO_ROOM, [1, 2, 3, 5, 6, 7], 6, False),
        (TOO_LONG, range(3, 20), 17, False),
        (pa.ArrowInvalid("no file holds it"), range(3, 20), 17, False),
    ],
)
def test_a_storage_that_takes_no_more_units_ends_the_run(error, refused, given_up, stopped):
    """And only such a one: after a success it is counted anew, and some units cannot be stored."""

    class Full(Simulation):
        def _finish(self, handle: int) -> Any:
            kind, *what = self._work[handle]
            if kind == "commit" and int(what[0].id[1:]) in refused:
                tries.append(what[0].id)
                return error
            return super()._finish(handle)

    tries: list[str] = []
    units = make_units(40, 10)
    simulation = Full(1, 1, 0.0, set())
    simulation.most_at_once, simulation.choose = 1, min
    outcome = Scheduler(simulation, lambda r: None, lambda: False).run(one_by_one(units))
    # Each once: the commit itself has tried what the storage refuses again.
    assert len(tries) == len(set(tries)) * (1 if isinstance(error, OSError) else 3)
    assert given_up <= len(outcome.failed_units) <= given_up + 2  # those under way may fail, too
    assert outcome.stopped == stopped
    assert (len(simulation.committed) == 40 - given_up) == (not stopped)


def test_the_last_units_wait_for_workers_that_still_load():
    class Late(Simulation):
        """The second worker has its model only after the first has scored something."""

        def ready(self, worker: int) -> bool:
            return worker == 0 or bool(self.committed)

    simulation = Late(1, 2, 0.0, set())
    Scheduler(simulation, lambda r: None, lambda: False).run(iter([ReadTask(make_units(2, 10))]))
    assert len(simulation.committed) == 2
    assert simulation.deepest == 1


def test_the_first_read_task_is_alone():
    reading: list[int] = []

    class Watched(Simulation):
        def wait(self, timeout: float) -> list[Hashable]:
            reading.append(sum(self._work[handle][0] == "read" for handle in self._open))
            return super().wait(timeout)

    units = make_units(30, 10)
    Scheduler(Watched(1, 4, 0.0, set()), lambda r: None, lambda: False).run(one_by_one(units))
    assert reading[0] == 1
    assert max(reading) > 1


@pytest.mark.parametrize("workers", [1, 3])
def test_one_wholly_poisonous_unit_fails_alone(workers):
    units = make_units(6, 200)
    poison = {("u2", row) for row in range(200)}
    simulation = Simulation(1, workers, 0.0, poison)
    outcome = Scheduler(simulation, lambda r: None, lambda: False).run(one_by_one(units))
    assert set(simulation.committed) == {unit.id for unit in units} - set(outcome.failed_units)
    assert set(outcome.failed_units) <= {"u2"}


def test_workers_that_never_succeed_stop_the_run():
    with pytest.raises(RunError, match="times in a row"):
        Scheduler(Simulation(1, 2, 1.0, set()), lambda r: None, lambda: False).run(
            one_by_one(make_units(6, 200))
        )
