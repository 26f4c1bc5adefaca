"""The inputs and the writers that the tests put together."""

from functools import partial
from typing import Any

from tests.helpers.protocol.checks import log_of
from tests.helpers.protocol.runs import Given, Inputs, left_behind, run
from tests.helpers.protocol.store import World
from tests.helpers.protocol.writers import Writer

LARGE, SMALL = 1 << 20, 1  # bytes of a cut: a unit of its own, or one shared with others

ONE = {"a": Given(((2, LARGE), (1, LARGE)))}
MORE = {"a": Given(((2, LARGE),)), "b": Given(((1, LARGE),))}
LESS = {"a": MORE["a"]}
SHARED = {"a": Given(((2, SMALL),)), "b": Given(((1, SMALL),))}
ALONE = {"b": Given(((2, LARGE),))}
TWO_BAD = {"a": Given(((2, SMALL),)), "b": Given(((2, SMALL),))}
B = frozenset("b")


def runs(*inputs: Inputs, **keys: Any) -> list[Writer]:
    return [
        Writer(name, partial(run, inputs=its, **keys))
        for name, its in zip("ABC", inputs, strict=False)
    ]


def cannot_read_b(name: str, inputs: Inputs) -> Writer:
    return Writer(name, partial(run, inputs=inputs, unreadable=B))


def again(name: str, inputs: Inputs, **keys: Any) -> Writer:
    """A run that scores what is in quarantine again."""
    return Writer(name, partial(run, inputs=inputs, retry=True, **keys))


def left_over(world: World, *numbers: int, cured: bool = False) -> Writer:
    """A worker that still commits some of the units that are in force in a world."""
    units = list(log_of(world).units.values())
    return Writer("L", partial(left_behind, units=[units[i] for i in numbers], cured=cured))


def after(*writers: Writer, until: str = "", start: World | None = None) -> World:
    """What is there after these writers, one after the other, or before one's operation."""
    world = start or World.of({})
    for writer in writers:
        point = writer.start()
        while point.op and not (until and until in str(point.op)):
            world, point = point.go_on(world)
    return world


def changed(inputs: Inputs) -> Inputs:
    return {**inputs, "b": Given(inputs["b"].cuts, stamp="2")}
