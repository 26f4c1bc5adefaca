"""Cuts of a text file: byte ranges of whole records.

For every format whose rows lie in its files one after another. What a record is, the format says.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertbatch.inputs.formats.reader import CutSize
from bertbatch.units import Cut

# No text is longer: one that never ends, such as after an open quote, is not read whole.
MAX_RECORD = 128 << 20

Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Records:
    """Where some consecutive records start and stop; the numbers of their lines, if known."""

    starts: Ints
    stops: Ints
    lines: Ints | None = None


def cuts_of(found: Iterable[Records], size: CutSize) -> Iterator[Cut]:
    """All records as consecutive cuts. A record that is too large is alone in its cut."""
    limit = min(size.text_bytes, size.carried_bytes, MAX_RECORD)
    first_row = rows = start = stop = line = 0  # of the cut that is open
    for records in found:
        starts, stops = records.starts, records.stops
        done = 0
        while done < len(starts):
            if not rows:
                start = int(starts[done])
                line = int(records.lines[done]) if records.lines is not None else 0
            fit = int(np.searchsorted(stops, start + limit, "right"))
            fit = min(max(fit, done if rows else done + 1), done + size.rows - rows)
            if fit > done:
                rows, stop = rows + fit - done, int(stops[fit - 1])
            if fit < len(starts):
                yield Cut(first_row, rows, start, stop, stop - start, line)
                first_row, rows = first_row + rows, 0
            done = fit
    if rows:
        yield Cut(first_row, rows, start, stop, stop - start, line)
