"""Every schedule of some writers, searched whole."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.helpers.protocol.checks import check_always, check_success, check_whole
from tests.helpers.protocol.determinism import begin
from tests.helpers.protocol.runs import Inputs, run
from tests.helpers.protocol.store import Op, Store, World, do
from tests.helpers.protocol.writers import Point, Writer


@dataclass
class Search:
    """Every schedule of some writers. `states` counts what was seen."""

    inputs: Inputs  # for the run that repairs
    writers: list[Writer]
    mended: frozenset[str] = frozenset()
    faults: int = 1
    crashes: bool = True
    late: bool = False
    _checked: set[World] = field(default_factory=set)
    _repaired: set[World] = field(default_factory=set)

    def go(self, start: World | None = None) -> None:
        # The store, where the writers are, faults left, changes that may yet be made.
        State = tuple[World, tuple[Point | None, ...], int, frozenset[Op]]
        points = tuple(w.start() for w in self.writers)
        first: State = (start or World.of({}), points, self.faults, frozenset())
        came: dict[State, tuple[State, str] | None] = {first: None}
        todo = [first]
        while todo:
            state = todo.pop()
            try:
                self._check(state)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{_story(came, state)}") from error
            for after, what in self._steps(*state):
                if after not in came:
                    came[after] = (state, what)
                    todo.append(after)
        print(f"{len(came)} states")

    def _steps(
        self, world: World, points: tuple[Point | None, ...], faults: int, late: frozenset[Op]
    ) -> Iterator[tuple[Any, str]]:
        for op in late:
            yield (world.do(op)[0], points, faults, late - {op}), f"AT LAST {op}"
        for i, point in enumerate(points):
            if point is None or point.op is None:
                continue
            name, op = self.writers[i].name, point.op

            def moved(to: Point | None, i: int = i) -> tuple[Point | None, ...]:
                return (*points[:i], to, *points[i + 1 :])

            after, next_point = point.go_on(world)
            yield (after, moved(next_point), faults, late), f"{name}: {op}"
            if self.crashes:
                yield (world, moved(None), faults, late), f"{name} is gone before {op}"
            if not faults:
                continue
            failed = moved(point.after(OSError))
            yield (world, failed, faults - 1, late), f"{name}: {op}, FAILS"
            if op.changes:
                yield (after, failed, faults - 1, late), f"{name}: {op}, REPLY LOST"
                if self.late:
                    yield (world, failed, faults - 1, late | {op}), f"{name}: {op}, IS LATE"

    def _check(self, state: Any) -> None:
        world, points, *_ = state
        if world not in self._checked:
            self._checked.add(world)
            check_always(world)
        if any(point and point.op for point in points):
            return
        for point in points:
            # The store's errors may end a run; nothing else may.
            assert not point or point.ended == "done" or point.ended.startswith("OSError")
        # A run that dies between writing its success and looking at the plan again can leave
        # one that another run's new entry outdates: until that run ends, or the next begins.
        # A late write of it may outlast its deletion: its `plan` tells, and the next run sees.
        if all(point and point.ended == "done" for point in points) and not self.late:
            check_success(world)
        if world not in self._repaired:
            self._repaired.add(world)
            check_whole(self._repair(world), self.inputs)

    def _repair(self, world: World) -> World:
        files = dict(world.files)
        begin("R")
        run(Store(lambda op: do(files, op)), self.inputs, mended=self.mended)
        return World.of(files)


def _story(came: dict[Any, Any], state: Any) -> str:
    lines = [
        f"{point.ended or 'is before ' + str(point.op)}" if point else "is gone"
        for point in state[1]
    ]
    steps = []
    while came[state]:
        state, what = came[state]
        steps.append(what)
    return "\n".join([*reversed(steps), "then the writers:", *lines])
