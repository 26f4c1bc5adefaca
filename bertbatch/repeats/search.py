"""Finds the texts that several units have, in bounded memory.

Hashes of all texts are written into partitions by their first byte, and each partition is sorted
by itself. A text that several units have is scored by a unit of such texts, which is made of the
units where they occur first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from bertbatch.repeats.spill import Spill
from bertbatch.units import Repeats, Unit, digest

_HASH = np.dtype([("high", "<u8"), ("low", "<u8"), ("unit", "<i4"), ("at", "<u4")])
_LINK = np.dtype([("unit", "<i4"), ("at", "<u4"), ("first", "<i4")])
_FIRST = np.dtype([("unit", "<i4"), ("at", "<u4")])

BUCKET = 64  # units whose links share a file on the disk
MOST_UNITS = 64  # that one unit of first texts reads,
MOST_BYTES = 64 << 20  # of texts and columns,
MOST_TEXTS, LEAST_TEXTS = 1 << 14, 64
UNITS_A_WORKER = 4  # at least, so that the workers end together


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
        self._groups: list[list[int]] = []  # units, by number, of each unit of first texts
        self._names: list[str] = []  # of the groups' files
        self._group_of: dict[int, int] = {}
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
        pairs = np.frombuffer(hashes.buffers()[1], "<u8").reshape(-1, 2)
        records = np.empty(len(hashes), _HASH)
        records["high"], records["low"] = pairs[:, 0], pairs[:, 1]
        records["unit"], records["at"] = number, np.arange(len(hashes))
        self._hashes.add(records["high"] & 0xFF, records)

    def finish(self, workers: int) -> None:
        """Finds what is repeated. Nothing can be added after that."""
        for key in sorted(self._hashes.keys):
            records = self._hashes.read(key)
            self._hashes.drop(key)
            self._match(records)
        most = self.texts // max(workers * UNITS_A_WORKER, 1)
        self._group(min(max(most, LEAST_TEXTS), MOST_TEXTS))

    def _match(self, records: np.ndarray) -> None:
        order = np.lexsort(tuple(records[name] for name in ("at", "unit", "low", "high")))
        records = records[order]
        high, low = records["high"], records["low"]
        new = np.ones(len(records), bool)
        new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        start, text = np.flatnonzero(new), np.cumsum(new) - 1
        first = records["unit"][start]  # stored answers come first
        last = records["unit"][np.append(start[1:], len(records)) - 1]
        repeated = (first != last) & (last >= 0)
        rows = repeated[text] & (records["unit"] >= 0)
        links = np.empty(int(rows.sum()), _LINK)
        links["unit"], links["at"] = records["unit"][rows], records["at"][rows]
        links["first"] = first[text][rows]
        self._links.add(links["unit"] // BUCKET, links)
        fresh = repeated & (first >= 0)
        firsts = np.empty(int(fresh.sum()), _FIRST)
        firsts["unit"], firsts["at"] = first[fresh], records["at"][start[fresh]]
        self._firsts.add(firsts["unit"] // BUCKET, firsts)
        np.add.at(self._firsts_of, firsts["unit"], 1)
        self.rows += len(links)
        self.texts += len(firsts)

    def _group(self, texts: int) -> None:
        """Puts units with first texts together, until these are so many."""
        group: list[int] = []
        count = size = 0
        for number in np.flatnonzero(self._firsts_of).tolist():
            own, bytes_ = int(self._firsts_of[number]), self._units[number].bytes
            full = len(group) == MOST_UNITS or size + bytes_ > MOST_BYTES or count + own > texts
            if group and full:
                self._close(group)
                group, count, size = [], 0, 0
            group.append(number)
            count, size = count + own, size + bytes_
        if group:
            self._close(group)

    def _close(self, group: list[int]) -> None:
        what = [[self._units[number].id, int(self._firsts_of[number])] for number in group]
        self._group_of |= dict.fromkeys(group, len(self._groups))
        self._groups.append(group)
        self._names.append(digest(["texts", what])[:20])

    def first_units(self) -> Iterator[Unit]:
        """The units that score each repeated text once."""
        for name, group in zip(self._names, self._groups, strict=True):
            places, before = [], 0
            for number in group:
                firsts = self._firsts.read(number // BUCKET)
                own = firsts["at"][firsts["unit"] == number].astype(np.int64)
                places.append(np.sort(own) + before)
                before += int(self._texts[number])
            spans = tuple(span for number in group for span in self._units[number].spans)
            yield Unit(name, spans, first_texts=np.concatenate(places))

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
        links = links[np.argsort(links["at"])]
        firsts, file = np.unique(links["first"], return_inverse=True)
        names = [
            self._stored[-1 - first] if first < 0 else self._names[self._group_of[first]]
            for first in firsts.tolist()
        ]
        return replace(unit, repeats=Repeats(links["at"], file, tuple(names)))
