"""The lines of a text file, found in its bytes.

A line ends at \\n, and at nothing else that Unicode calls a line end; a \\r before it is for the
format to drop. A byte order mark belongs to no line, and a last line needs no end. What a line
holds, the format says.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bertbatch.inputs.formats.byte_cuts import Ints, Records
from bertbatch.inputs.formats.parallel import THREADS, ahead

BOM = b"\xef\xbb\xbf"
_SPACES = b" \t\r"


def records(blocks: Iterable[bytes], blank: bool) -> Iterator[Records]:
    """The lines of a stream, whose first block is no shorter than a byte order mark.

    Without `blank`, lines of spaces alone are left out; they count as lines all the same.
    """
    base = start = 0  # where the block and the line that is open at its start begin
    line = 1  # the number of that line
    empty = True  # whether that line holds spaces alone so far
    with ThreadPoolExecutor(THREADS) as pool:
        for block, ends in ahead(pool, _ends, blocks, THREADS):
            if base == start == 0 and block.startswith(BOM):
                start = len(BOM)
            if len(ends):
                stops = base + ends
                starts = np.concatenate(([start], stops[:-1]))
                numbers = np.arange(line, line + len(stops))
                if not blank:
                    first = block[max(start - base, 0) : int(ends[0])]
                    kept = _filled(block, ends)
                    kept[0] = not (empty and _is_blank(first))
                    starts, stops, numbers = starts[kept], stops[kept], numbers[kept]
                yield Records(starts, stops, numbers)
                start, line, empty = base + int(ends[-1]), line + len(ends), True
            empty = empty and _is_blank(block[max(start - base, 0) :])
            base += len(block)
    if start < base and (blank or not empty):
        yield Records(np.array([start]), np.array([base]), np.array([line]))


def split(data: bytes, blank: bool) -> list[tuple[int, bytes]]:
    """The lines of bytes that begin where a line begins, each with its number, counted from 0."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [(i, line) for i, line in enumerate(lines) if blank or not _is_blank(line)]


def _ends(block: bytes) -> tuple[bytes, Ints]:
    """The block, with one past each of its line ends."""
    return block, np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1


def _filled(block: bytes, ends: Ints) -> np.ndarray:
    """Which of the lines that end at `ends` hold more than spaces; the first is not looked at."""
    kept = np.ones(len(ends), bool)
    starts = ends[:-1]
    first = np.frombuffer(block, np.uint8)[starts]
    for i in np.flatnonzero(np.isin(first, list(_SPACES + b"\n"))).tolist():
        kept[i + 1] = not _is_blank(block[starts[i] : ends[i + 1]])
    return kept


def _is_blank(line: bytes) -> bool:
    return not line.strip(_SPACES + b"\n")
