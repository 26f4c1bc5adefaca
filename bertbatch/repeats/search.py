"""Finds the texts that several units have, in bounded memory.

Hashes of each unit's different texts are written into partitions by their first byte, and each
partition is sorted by itself. A text that several units have is scored by a unit of such texts,
which is made of units where they occur first.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from bertbatch.repeats.hashes import KIND
from bertbatch.repeats.spill import Spill
from bertbatch.units import Repeats, Unit

_WORDS = [("high", "<u8"), ("low", "<u8")]  # of a hash
_HASH = np.dtype([*_WORDS, ("unit", "<i4"), ("at", "<u4"), ("rows", "<u4")])
_LINK = np.dtype([*_WORDS, ("unit", "<i4"), ("first", "<i4")])
_FIRST = np.dtype([*_WORDS, ("unit", "<i4"), ("at", "<u4")])

BUCKET = 64  # units whose links share a file on the disk
MOST_UNITS = 64  # that one unit of first texts reads,
MOST_BYTES = 64 << 20  # of texts and columns,
MOST_TEXTS, LEAST_TEXTS = 1 << 14, 64
UNITS_A_WORKER = 4  # at least, so that the workers end together


@dataclass(frozen=True)
class _Group:
    """Units whose first texts are scored together, dealt out to several files by their hashes."""

    units: list[int]
    names: list[str]


class Search:
    """The texts of some units, and of answers that are stored already, by the files' names.

    `rows`: how many rows have a text that another unit has, or that has a stored answer; `texts`:
    how many different ones of these are to be scored.
    """

    def __init__(self, folder: Path, units: Sequence[Unit]):
        self._units = units
        self._number = {unit.id: i for i, unit in enumerate(units)}
        self._texts = np.zeros(len(units), np.int64)  # of each unit
        self._firsts_of = np.zeros(len(units), np.int64)
        self._hashes = Spill(folder, "hashes", _HASH)
        self._links = Spill(folder, "links", _LINK)
        self._firsts = Spill(folder, "firsts", _FIRST)
        self._stored: list[str] = []
        self._groups: list[_Group] = []
        self._group_of: dict[int, _Group] = {}
        self._bucket: tuple[int, np.ndarray] = (-1, np.empty(0, _LINK))
        self.rows = self.texts = 0

    def add_stored(self, name: str, hashes: pa.Array) -> None:
        """Adds texts that have a stored answer."""
        self._stored.append(name)
        self._add(-len(self._stored), hashes)

    def add(self, unit: Unit, hashes: pa.Array) -> None:
        """Adds the texts of a unit, in order."""
        number = self._number[unit.id]
        self._texts[number] = len(hashes)
        self._add(number, hashes)

    def _add(self, number: int, hashes: pa.Array) -> None:
        """One record for each different text: one that is in every row takes no more room."""
        words = np.frombuffer(hashes.buffers()[1], _WORDS, len(hashes), hashes.offset * 16)
        different, at, rows = np.unique(words, return_index=True, return_counts=True)
        records = np.empty(len(different), _HASH)
        records["high"], records["low"] = different["high"], different["low"]
        records["unit"], records["at"], records["rows"] = number, at, rows
        self._hashes.add(records["high"] & 0xFF, records)

    def partitions(self) -> Iterator[None]:
        """Finds what is repeated, one partition after the other. Then nothing can be added."""
        for key in sorted(self._hashes.keys):
            records = self._hashes.read(key)
            self._hashes.drop(key)
            self._match(records)
            yield

    def _match(self, records: np.ndarray) -> None:
        records = records[np.lexsort(tuple(records[name] for name in ("unit", "low", "high")))]
        high, low = records["high"], records["low"]
        new = np.ones(len(records), bool)
        new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        start, text = np.flatnonzero(new), np.cumsum(new) - 1
        first = records["unit"][start]  # stored answers come first
        last = records["unit"][np.append(start[1:], len(records)) - 1]
        repeated = (first != last) & (last >= 0)
        linked = repeated[text] & (records["unit"] >= 0)
        links = _copy(records[linked], _LINK)
        links["first"] = first[text][linked]
        self._links.add(links["unit"] // BUCKET, links)
        firsts = _copy(records[start[repeated & (first >= 0)]], _FIRST)
        self._firsts.add(firsts["unit"] // BUCKET, firsts)
        np.add.at(self._firsts_of, firsts["unit"], 1)
        self.rows += int(records["rows"][linked].sum())
        self.texts += len(firsts)

    def group(self, workers: int) -> None:
        """Decides which units score first texts together, for so many workers."""
        each = self.texts // max(workers * UNITS_A_WORKER, 1)
        texts = min(max(each, LEAST_TEXTS), MOST_TEXTS)
        group: list[int] = []
        count = size = 0
        for number in np.flatnonzero(self._firsts_of).tolist():
            own, bytes_ = int(self._firsts_of[number]), self._units[number].bytes
            full = len(group) == MOST_UNITS or size + bytes_ > MOST_BYTES or count + own > texts
            if group and full:
                self._close(group, count, texts)
                group, count, size = [], 0, 0
            group.append(number)
            count, size = count + own, size + bytes_
        if group:
            self._close(group, count, texts)

    def _close(self, units: list[int], count: int, texts: int) -> None:
        # Names that no other run gives: what is in a file follows from its name.
        names = [uuid.uuid4().hex[:20] for _ in range(-(-count // texts))]
        group = _Group(units, names)
        self._groups.append(group)
        self._group_of |= dict.fromkeys(units, group)

    def first_units(self) -> Iterator[Unit]:
        """The units that score each repeated text once."""
        for group in self._groups:
            places: list[list[np.ndarray]] = [[] for _ in group.names]
            before = 0
            for number in group.units:
                firsts = self._firsts.read(number // BUCKET)
                firsts = firsts[firsts["unit"] == number]
                share = firsts["low"] % len(group.names)
                for i, own in enumerate(places):
                    own.append(np.sort(firsts["at"][share == i].astype(np.int64)) + before)
                before += int(self._texts[number])
            spans = tuple(span for number in group.units for span in self._units[number].spans)
            for name, own in zip(group.names, places, strict=True):
                yield Unit(name, spans, first_texts=np.concatenate(own))

    def with_repeats(self, unit: Unit) -> Unit:
        """The unit, with what is known of its repeated texts."""
        number = self._number.get(unit.id)
        if number is None:
            return unit
        bucket = number // BUCKET
        if self._bucket[0] != bucket:
            self._bucket = bucket, self._links.read(bucket)
        links = self._bucket[1][self._bucket[1]["unit"] == number]
        if not len(links):
            return unit
        files: dict[str, int] = {}
        file = [
            files.setdefault(self._file(first, low), len(files))
            for first, low in zip(links["first"].tolist(), links["low"].tolist(), strict=True)
        ]
        words = np.empty(len(links), _WORDS)
        words["high"], words["low"] = links["high"], links["low"]
        buffers = [None, pa.py_buffer(words.tobytes())]
        hashes = pa.Array.from_buffers(KIND, len(links), buffers)
        return replace(unit, repeats=Repeats(hashes, np.array(file, np.int32), tuple(files)))

    def _file(self, first: int, low: int) -> str:
        """Where the answer to a text is, by the unit where it occurs first."""
        if first < 0:
            return self._stored[-1 - first]
        names = self._group_of[first].names
        return names[low % len(names)]


def _copy(records: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Those fields of records that another dtype has, too."""
    found = np.zeros(len(records), dtype)
    for name in dtype.names or ():
        if name in (records.dtype.names or ()):
            found[name] = records[name]
    return found
