"""A writer is its program, run as far as the store's answers go."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.helpers.protocol.determinism import begin
from tests.helpers.protocol.store import Op, Store, World


class Paused(BaseException):
    """A writer has come to an operation whose answer is not known yet."""


@dataclass
class Writer:
    """A program, run as far as the answers go. `Point.after` leads on."""

    name: str
    program: Callable[[Store], Any]

    def start(self) -> "Point":
        return Point(self, ())


class Point:
    """Where a writer stands after some answers: before its next operation, or at its end."""

    def __init__(self, writer: Writer, answers: tuple[Any, ...]):
        self._writer, self._answers = writer, answers
        self._next: dict[Any, Point] = {}
        self._moves: dict[World, tuple[World, Point]] = {}
        self.op: Op | None = None
        self.ended = ""  # "done", or the error that the writer ended with
        rest = iter(answers)

        def answer(op: Op) -> Any:
            for known in rest:
                return known
            self.op = self.op or op
            raise Paused

        begin(writer.name)
        try:
            writer.program(Store(answer))
            self.ended = "done"
        except Paused:
            pass
        except Exception as error:
            self.ended = f"{type(error).__name__}: {error}"

    def go_on(self, world: World) -> "tuple[World, Point]":
        """The store and the writer after its next operation."""
        if world not in self._moves:
            assert self.op
            after, answer = world.do(self.op)
            self._moves[world] = (after, self.after(answer))
        return self._moves[world]

    def after(self, answer: Any) -> "Point":
        if answer not in self._next:
            self._next[answer] = Point(self._writer, (*self._answers, answer))
        return self._next[answer]
