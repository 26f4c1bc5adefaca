"""The rows of two outputs side by side: windows of rows, each with the parts that hold them.

A window has at most a million rows, whatever the outputs have, and each row has a place in it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertbatch.checks.answers import Committed
from bertbatch.units import Unit

ROWS = 1_000_000  # of a window


@dataclass(frozen=True)
class Stretch:
    """Rows of one source from `first` on; `place` is where they begin in their window."""

    source: str
    first: int
    rows: int
    place: int


@dataclass(frozen=True)
class Window:
    """Rows of one or many sources."""

    stretches: tuple[Stretch, ...]

    @property
    def rows(self) -> int:
        last = self.stretches[-1]
        return last.place + last.rows

    def places(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Which rows of a table (`source`, `row`) are in the window: their indices, places."""
        ids = pa.array([stretch.source for stretch in self.stretches], pa.string())
        of = pc.fill_null(pc.index_in(table["source"].cast(pa.string()), value_set=ids), -1)
        stretch, row = of.to_numpy(), table["row"].to_numpy()
        bounds = np.array([(s.first, s.rows, s.place) for s in self.stretches], np.int64)
        first, rows, place = bounds[stretch].T
        inside = (stretch >= 0) & (row >= first) & (row < first + rows)
        return np.flatnonzero(inside), (place + row - first)[inside]

    def origin(self, place: int) -> tuple[str, int]:
        """The source and row at a place."""
        starts = [stretch.place for stretch in self.stretches]
        stretch = self.stretches[int(np.searchsorted(starts, place, "right")) - 1]
        return stretch.source, stretch.first + place - stretch.place


def windows(
    outputs: Sequence[Committed], size: int = ROWS
) -> Iterator[tuple[Window, list[list[Unit]]]]:
    """Windows over all rows that are committed in an output, and the units of each in it."""
    by_source = [_units(output.units) for output in outputs]
    stretches: list[Stretch] = []
    filled = 0
    for source in sorted({id_ for units in by_source for id_ in units}):
        spans = [span for units in by_source for span in units.get(source, [])]
        at, end = min(first for first, _, _ in spans), max(last for _, last, _ in spans)
        while at < end:
            rows = min(end - at, size - filled)
            stretches.append(Stretch(source, at, rows, filled))
            at, filled = at + rows, filled + rows
            if filled == size:
                yield _with_units(stretches, by_source)
                stretches, filled = [], 0
    if stretches:
        yield _with_units(stretches, by_source)


_Spans = dict[str, list[tuple[int, int, Unit]]]  # by source: first row, one past the last, unit


def _units(units: Sequence[Unit]) -> _Spans:
    found: _Spans = {}
    for unit in units:
        for span in unit.spans:
            first = span.cut.first_row
            found.setdefault(span.source.id, []).append((first, first + span.cut.rows, unit))
    return found


def _with_units(
    stretches: list[Stretch], by_source: Sequence[_Spans]
) -> tuple[Window, list[list[Unit]]]:
    each = []
    for spans in by_source:
        inside = {
            unit.id: unit
            for s in stretches
            for first, last, unit in spans.get(s.source, [])
            if first < s.first + s.rows and last > s.first
        }
        each.append(list(inside.values()))
    return Window(tuple(stretches)), each
