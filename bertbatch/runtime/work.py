"""What the scheduler hands around: tasks to read, units that are being scored."""

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from bertbatch.units import Unit

log = logging.getLogger("bertbatch")

PIECES = 16  # a range of rows that kills its worker is split into so many

Rows = tuple[int, int]  # a range of a unit's rows to score: the first, one past the last


@dataclass(frozen=True)
class ReadTask:
    """Units that are read together. If it is divisible, fewer of them may be read at a time."""

    units: Sequence[Unit]
    divisible: bool = True


@dataclass(eq=False)
class Work:
    """A unit between its reading and its commit."""

    unit: Unit
    tokens: Any
    passthrough: Any
    todo: deque[Rows]  # ranges of rows not yet scored
    pieces: dict[int, Any] = field(default_factory=dict)  # first row → scored range
    poison: list[tuple[int, str]] = field(default_factory=list)
    tries: dict[Rows, int] = field(default_factory=dict)
    failed_on: int | None = None  # the worker where a range of it failed last,
    failed_at: float = 0.0  # and when
    nodes_gone: int = 0  # while it was scored on them

    @property
    def suspect(self) -> bool:
        return bool(self.tries)

    def blame(self, worker: int, rows: Rows, reason: str) -> None:
        """Notes that a range of rows failed: it runs again, then in pieces, down to one row.

        A row that has failed alone goes to quarantine.
        """
        self.failed_on, self.failed_at = worker, time.monotonic()
        first, stop = rows
        self.tries[rows] = self.tries.get(rows, 0) + 1
        if self.tries[rows] < 2:
            self.todo.appendleft(rows)
        elif stop - first == 1:
            self.poison.append((first, reason))
            log.warning(
                "%s: one row goes to quarantine: %s",
                self.unit.part,
                reason,
                extra=where(self.unit),
            )
        else:
            count = min(PIECES, stop - first)
            bounds = [first + (stop - first) * i // count for i in range(count + 1)]
            pieces = list(pairwise(bounds))
            self.todo.extendleft(reversed(pieces))
            # One failure is known of each piece: that of the whole. A single row has to fail
            # twice itself, on two workers if there are so many, before it is given up.
            self.tries |= {piece: int(piece[1] - piece[0] > 1) for piece in pieces}


def where(unit: Unit) -> dict[str, str]:
    """What structured logs say of a unit."""
    return {"unit": unit.id, "source": unit.spans[0].source.id}
