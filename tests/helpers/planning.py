"""A run that dies while it plans."""

from typing import Any

import pytest

from bertbatch.plan import planner


class Killed(RuntimeError):
    """In the place of a kill."""


def dies_after(entries: int, patch: pytest.MonkeyPatch) -> None:
    """Lets a run store so many entries of one source each, then ends it."""
    store, stored = planner.Planner._store, []

    def dying(self: planner.Planner, cuts: Any) -> Any:
        if len(stored) == entries:
            raise Killed
        stored.append(cuts)
        return store(self, cuts)

    patch.setattr(planner, "ENTRY_SOURCES", 1)
    patch.setattr(planner.Planner, "_store", dying)
