"""The records of a CSV file, found in its bytes.

`records` finds where records begin and end, `fields` the fields of whole records. The rules are
those of Python's csv module (doublequote, not strict, newline=''): a quote means something only
where a field begins, a closed field may go on unquoted, and a record ends at an unquoted \\n,
\\r\\n or \\r. Blank lines are not records, so \\r\\n needs no special care: it is an end and a
blank line. An escape character, if the dialect has one, makes a quote after it text, and
means nothing before other characters or outside of quotes.

Both functions rest on one observation, so that planning and reading can't disagree. Only
maximal runs of the quote character matter:

- an even run never changes whether we are inside quotes;
- an odd run at a field's start (after a delimiter, a line end or nothing) toggles it;
- any other odd run leaves us outside: it closes the field, or is literal text.

Hence the state anywhere is the parity of odd runs at field starts since the last other odd
run. No loop in Python runs over bytes, and a piece of a stream can be examined in any thread
before the state at its start is known. This module does not deal with files, columns,
encodings or cuts.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from bertbatch.inputs.formats.byte_cuts import MAX_RECORD, Ints
from bertbatch.inputs.formats.lines import BOM
from bertbatch.inputs.formats.parallel import THREADS, ahead

PIECE = 1 << 20  # fits a core's cache together with its position arrays
_LF, _CR = 10, 13


@dataclass(frozen=True)
class Dialect:
    """The ASCII characters that mean something. Within quotes, `escape` makes a quote text."""

    delimiter: str = ","
    quote: str = '"'
    escape: str | None = None


class OpenQuote(Exception):
    """A quote at byte `at` is not closed before the stream ends."""

    def __init__(self, at: int):
        super().__init__(at)
        self.at = at


Flags = NDArray[np.bool_]
Bytes = NDArray[np.uint8]


def records(
    blocks: Iterable[bytes], dialect: Dialect, threads: int = THREADS
) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Where the records of a stream start and stop (with the byte that ends them), in order.

    Yields arrays that are never empty, with the number of line ends in each record (\\r\\n counts
    as two). A byte order mark and blank lines belong to no record; a last line without an end is
    a record. Only a few blocks are held at a time. Raises OpenQuote.
    """
    head, rest = b"", iter(blocks)
    while len(head) < len(BOM) and (block := next(rest, b"")):
        head += block
    # Where the piece and the record that is open at its start begin:
    base = start = len(BOM) if head.startswith(BOM) else 0
    quoted, opened = False, 0
    lines = 0  # line ends so far in that record
    with ThreadPoolExecutor(threads) as pool:
        pieces = _pieces(chain([head[start:]], rest), dialect)
        for seen in ahead(pool, lambda piece: _examine(*piece, dialect), pieces, threads):
            which = seen.stops_if(quoted)
            if len(which):
                stops = base + seen.line_stops[which]
                starts = np.concatenate(([start], stops[:-1]))
                start = int(stops[-1])
                ends = np.diff(which, prepend=-1 - lines)
                lines = -1 - int(which[-1])
                rows = stops - starts > 1  # a blank line is nothing but its end
                if rows.any():
                    yield starts[rows], stops[rows], ends[rows]
            lines += len(seen.line_stops)
            opened = opened if seen.last_odd is None else base + seen.last_odd
            base += seen.length
            quoted = seen.quoted_after(quoted)
    if quoted:
        raise OpenQuote(opened)  # only the last odd run can have opened what is open now
    if start < base:
        yield np.array([start]), np.array([base]), np.array([lines])


@dataclass(frozen=True)
class Fields:
    """The fields of some records; `first` and `count` tell each record's.

    `start` and `stop` are offsets into the data: a field with nothing between its separators,
    not even quotes, has them equal. `offsets` moves them to `text`, which is the data without
    the quotes that are syntax.
    """

    start: Ints
    stop: Ints
    first: Ints
    count: Ints
    text: Bytes
    _dropped_at: Ints
    _dropped: Ints  # up to each of those

    def offsets(self, positions: Ints) -> Ints:
        return positions - self._dropped[np.searchsorted(self._dropped_at, positions)]


def fields(data: bytes, dialect: Dialect) -> Fields:
    """The fields of bytes that begin where a record begins. Blank lines are not records."""
    a = np.frombuffer(data, np.uint8)
    runs = _quote_runs(a, _LF, dialect)
    after = _quoted_after(runs.opens[runs.odd])
    separators = np.flatnonzero(_line_ends(a) | (a == ord(dialect.delimiter)))
    stop = separators[~_quoted_at(separators, runs.at[runs.odd], after)]
    start = np.concatenate(([0], stop + 1))
    ends_line = np.append(a[stop] != ord(dialect.delimiter), True)
    stop = np.append(stop, len(a))  # the last record, or a blank one, has no terminator
    last = np.flatnonzero(ends_line)
    first = np.concatenate(([0], last[:-1] + 1))
    count = last - first + 1
    rows = (count > 1) | (start[first] < stop[first])
    at, drop = _syntax(runs, after)
    if dialect.escape is not None:
        escapes, dropping = _escapes(a, runs.at[runs.odd], after, dialect)
        both = np.concatenate((at, escapes))
        order = np.argsort(both)
        at, drop = both[order], np.concatenate((drop, dropping))[order]
    dropped = np.append(0, np.cumsum(drop))
    return Fields(start, stop, first[rows], count[rows], _without(a, at, drop), at, dropped)


@dataclass(frozen=True)
class _Examined:
    """A piece, examined before it is known whether it starts inside quotes."""

    length: int
    line_stops: Ints
    quoted: Flags  # each line stop, if the piece starts outside quotes
    unsettled: int  # the line stops before the first run that settles the state
    settled: bool  # whether there is such a run
    quoted_at_end: bool  # if the piece starts outside quotes
    last_odd: int | None  # the offset of its last odd run of quotes

    def stops_if(self, quoted: bool) -> Ints:
        """Which of the line stops end a record."""
        inside = self.quoted
        if quoted:
            inside = inside.copy()
            inside[: self.unsettled] ^= True
        return np.flatnonzero(~inside)

    def quoted_after(self, quoted: bool) -> bool:
        return self.quoted_at_end ^ (quoted and not self.settled)


def _examine(piece: bytes, before: int, dialect: Dialect) -> _Examined:
    a = np.frombuffer(piece, np.uint8)
    stops = np.flatnonzero(_line_ends(a)) + 1
    runs = _quote_runs(a, before, dialect)
    at, opens = runs.at[runs.odd], runs.opens[runs.odd]
    after = _quoted_after(opens)
    settles = np.flatnonzero(~opens)
    unsettled = int(np.searchsorted(stops, at[settles[0]])) if len(settles) else len(stops)
    quoted, at_end = _quoted_at(stops, at, after), bool(len(after) and after[-1])
    last = int(at[-1]) if len(at) else None
    return _Examined(len(a), stops, quoted, unsettled, len(settles) > 0, at_end, last)


def _pieces(blocks: Iterable[bytes], dialect: Dialect) -> Iterator[tuple[bytes, int]]:
    """The stream in pieces that can be examined alone, each with the byte before it.

    A run of quotes is divided only after an even number. The next piece gets the byte before
    the run, so that its parity and place are right. A run of escapes and quotes is not divided.
    """
    before, rest = _LF, b""
    quote = dialect.quote.encode()
    for block in blocks:
        for low in range(0, len(block), PIECE):
            piece = rest + block[low : low + PIECE]
            if dialect.escape is not None:
                whole = len(piece.rstrip(quote + dialect.escape.encode()))
                rest = piece[whole:]
                if len(rest) > MAX_RECORD:
                    raise ValueError(f"it has a run of more than {MAX_RECORD >> 20} MB of quotes")
                if whole:
                    yield piece[:whole], before
                    before = piece[whole - 1]
                continue
            quotes = len(piece) - len(piece.rstrip(quote))
            whole = len(piece) - quotes % 2
            if whole:
                yield piece[:whole], before
            if len(piece) > quotes:
                before = piece[-1 - quotes]
            rest = piece[whole:]
    if rest:
        yield rest, before


@dataclass(frozen=True)
class _Runs:
    """The maximal runs of the quote character."""

    at: Ints
    length: Ints
    odd: Flags
    opens: Flags  # at a field's start, if outside quotes


def _quote_runs(a: Bytes, before: int, dialect: Dialect) -> _Runs:
    quote = a == ord(dialect.quote)
    if dialect.escape is not None:
        escapes, count = _runs_of(a == ord(dialect.escape))
        after = (escapes + count)[count % 2 == 1]
        quote[after[after < len(a)]] = False  # an escaped one is text
    at, length = _runs_of(quote)
    previous = a[at - 1]
    if len(at) and at[0] == 0:
        previous[0] = before
    opens = (previous == ord(dialect.delimiter)) | (previous == _LF) | (previous == _CR)
    return _Runs(at, length, (length & 1).astype(bool), opens)


def _runs_of(mask: Flags) -> tuple[Ints, Ints]:
    """Where the runs of true values begin, and how long they are."""
    edges = np.flatnonzero(np.diff(np.pad(mask, 1).view(np.int8)))
    return edges[::2], edges[1::2] - edges[::2]


def _quoted_after(opens: Flags) -> Flags:
    """Whether the text after each odd run is quoted, if the first run is outside quotes."""
    toggles: Ints = np.cumsum(opens)
    settled: Ints = np.maximum.accumulate(np.where(opens, 0, toggles))
    quoted: Flags = (toggles - settled) % 2 == 1
    return quoted


def _quoted_at(positions: Ints, at: Ints, after: Flags) -> Flags:
    """Whether each position is inside quotes, given the odd runs and the state after each."""
    if not len(at):
        return np.zeros(len(positions), bool)
    return np.append(False, after)[np.searchsorted(at, positions)]


def _line_ends(a: Bytes) -> Flags:
    ends: Flags = (a == _LF) | (a == _CR)
    return ends


def _syntax(runs: _Runs, after: Flags) -> tuple[Ints, Ints]:
    """The runs with quotes that are syntax, and how many quotes of each are."""
    quoted = np.append(False, after)[np.cumsum(runs.odd) - runs.odd]
    means = np.flatnonzero(quoted | runs.opens)
    length = runs.length[means]
    # Inside quotes every second quote escapes, or the odd one closes. At a field's start the
    # first quote opens, and the same holds for the rest.
    return runs.at[means], np.where(quoted[means], (length + 1) // 2, length // 2 + 1)


def _escapes(a: Bytes, odd: Ints, after: Flags, dialect: Dialect) -> tuple[Ints, Ints]:
    """The runs of escapes that are syntax, and how many of each are.

    Within quotes every second one stands for itself, and the odd one is syntax before a quote.
    """
    assert dialect.escape is not None
    at, length = _runs_of(a == ord(dialect.escape))
    quote = np.append(a, 0)[at + length] == ord(dialect.quote)
    drop = np.where(_quoted_at(at, odd, after), (length + quote) // 2, 0)
    return at[drop > 0], drop[drop > 0]


def _without(a: Bytes, at: Ints, drop: Ints) -> Bytes:
    if not len(at):
        return a
    keep = np.ones(len(a), bool)
    keep[at] = False
    more = np.flatnonzero(drop > 1)
    if len(more):
        n = drop[more]
        within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        keep[np.repeat(at[more], n) + within] = False
    return a[keep]
