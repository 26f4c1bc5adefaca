"""The stored plan of an output: which rows of which source make a unit, decided once.

It is a log: numbered entries in `_bertbatch/plan/`, each created only if absent, each naming
sources and how they are cut into units. The first run to meet a source appends its cuts; every
other run loads them. One log, rather than a file for each source, so that a hundred thousand small
sources cost a hundred objects, and so that which of them share a unit is one atomic decision. How
sources are cut is decided in `planner.py`.
"""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bertbatch.output.contract import stored_fingerprint
from bertbatch.output.folder import Output
from bertbatch.output.records import MOST, reading
from bertbatch.storage.retry import create_once
from bertbatch.storage.stores import Store
from bertbatch.units import Cut, RetryRows, Source, Span, Unit, digest, unit_id

Urls = Callable[[str], str]  # where a source is, by its id

# What one entry covers at most: bounds what is planned before any of it runs.
ENTRY_SOURCES = 2000
ENTRY_BYTES = 1 << 30


@dataclass(frozen=True)
class TableVersion:
    """A version of a table that is read, and whether all its sources have been planned."""

    version: int
    done: bool


@dataclass
class Entry:
    """One entry of the log: sources newly planned, and the units that they are cut into.

    `withdrawn` are ids of units that this entry withdraws for good, together with those that
    score rows of them again; see `revisions.py`. Sources of withdrawn units that the entry does
    not name itself are no longer planned. `tables`: by id, which version of an input table is
    being planned, or is.
    """

    sources: list[Source]
    units: list[tuple[Span, ...]]
    withdrawn: list[str] = field(default_factory=list)
    retries: list[RetryRows] = field(default_factory=list)
    tables: dict[str, TableVersion] = field(default_factory=dict)

    def encode(self) -> bytes:
        number = {source.id: i for i, source in enumerate(self.sources)}
        data = {
            "sources": [[s.id, s.size, s.stamp] for s in self.sources],
            "units": [
                [[number[s.source.id], *_cut_fields(s.cut)] for s in spans] for spans in self.units
            ],
            "withdrawn": self.withdrawn,
            "again": [[rows.unit, rows.rows] for rows in self.retries],
        }
        if self.tables:
            data["tables"] = {id_: [t.version, int(t.done)] for id_, t in self.tables.items()}
        return gzip.compress(json.dumps(data, separators=(",", ":")).encode(), 6, mtime=0)

    @staticmethod
    def decode(data: bytes, urls: Urls) -> "Entry":
        """Raises ValueError and others if this is not an entry."""
        content = json.loads(gzip.decompress(data))
        sources = [
            Source(_is(str, id_), urls(id_), _is(int, size), _is(str, stamp))
            for id_, size, stamp in content["sources"]
        ]
        units = [
            tuple(Span(sources[_is(int, n)], Cut(*_counts(cut))) for n, *cut in spans)
            for spans in content["units"]
        ]
        if not all(units):
            raise ValueError("it has a unit without rows")
        retries = [
            RetryRows(_is(str, id_), tuple((_is(str, s), _is(int, n)) for s, n in rows))
            for id_, rows in content.get("again", [])
        ]
        tables = {
            _is(str, id_): TableVersion(_is(int, version), bool(done))
            for id_, (version, done) in content.get("tables", {}).items()
        }
        withdrawn = [_is(str, id_) for id_ in content["withdrawn"]]
        return Entry(sources, units, withdrawn, retries, tables)


def _is(kind: type[Any], value: Any) -> Any:
    """The value. Raises ValueError if it has another type, or is an integer but no count."""
    if type(value) is not kind or (kind is int and not 0 <= value < MOST):
        raise ValueError(f"{value!r:.80} is not a valid value in a plan")
    return value


def _counts(values: list[Any]) -> list[int]:
    return [_is(int, value) for value in values]


def _cut_fields(cut: Cut) -> list[int]:
    fields = [cut.first_row, cut.rows, cut.start, cut.stop, cut.bytes]
    if cut.selected is not None:
        return [*fields, cut.line, cut.selected]
    return [*fields, cut.line] if cut.line else fields


class PlanLog:
    """The stored plan of one output: its sources and units, and how to append to it.

    A dry run extends it in memory only, with `apply`.
    """

    def __init__(self, store: Store, output: str, fingerprint: str, urls: Urls):
        self.sources: dict[str, Source] = {}
        self.units: dict[str, Unit] = {}
        self.withdrawn: dict[str, Unit] = {}
        self.need_tombstones: dict[str, Unit] = {}  # withdrawn units that may still have rows
        self.tables: dict[str, list[TableVersion]] = {}  # by id, what entries say in turn
        self.entry_of: dict[str, int] = {}  # by a unit's id, which entry planned it
        self.size = 0  # entries read so far
        self._store = store
        self._folder = f"{output}/_bertbatch/plan"
        self._fingerprint = fingerprint
        self._urls = urls

    def refresh(self) -> list[Unit]:
        """Reads the entries that other runs have appended. Returns the units that they add."""
        added: list[Unit] = []
        for name in self._store.names(self._folder)[self.size :]:
            added += self.apply(self._entry(f"{self._folder}/{name}"))
        return added

    def append(self, entry: Entry) -> tuple[bool, list[Unit]]:
        """Appends an entry, or reads the one that another run has appended first.

        Returns whether the given entry is now in the log, and the units that were added.
        """
        path = f"{self._folder}/{self.size:08d}.json.gz"
        data = entry.encode()
        if not create_once(lambda: self._store.create(path, data)):
            stored = self._entry(path)
            return stored.encode() == data, self.apply(stored)
        return True, self.apply(entry)

    def _entry(self, path: str) -> Entry:
        """Raises JobError if the file is damaged: what it planned cannot be known."""
        data = self._store.read(path)
        with reading(path):
            return Entry.decode(data, self._urls)

    def apply(self, entry: Entry) -> list[Unit]:
        """Applies an entry in memory. Returns the units that it adds."""
        gone = set(entry.withdrawn)
        for unit in list(self.units.values()) if gone else ():
            # What scores some of its rows again comes later and goes with it.
            if unit.id in gone or (unit.retry and unit.retry.unit in gone):
                gone.add(unit.id)
                self.withdrawn[unit.id] = self.need_tombstones[unit.id] = self.units.pop(unit.id)
                for span in unit.spans:
                    self.sources.pop(span.source.id, None)
        for source in entry.sources:
            self.sources[source.id] = source
        for id_, version in entry.tables.items():
            self.tables.setdefault(id_, []).append(version)
        added = []
        for spans in entry.units:
            unit = Unit(unit_id(spans, self._fingerprint), spans)
            while unit.id in self.withdrawn:  # planned again: its old part is a tombstone
                unit = Unit(unit_id(spans, unit.id), spans)
            self.units[unit.id] = unit
            added.append(unit)
        for retry_rows in entry.retries:
            if (of := self.units.get(retry_rows.unit)) is not None:  # None: withdrawn meanwhile
                sources = {source for source, _ in retry_rows.rows}
                spans = tuple(span for span in of.spans if span.source.id in sources)
                unit = Unit(digest(["again", of.id])[:20], spans, retry_rows)
                self.units[unit.id] = unit
                added.append(unit)
        self.entry_of |= {unit.id: self.size for unit in added}
        self.size += 1
        return added


def stored_plan(output: Output, contract: dict[str, Any]) -> PlanLog:
    """The plan of an output that is only read: without a job, so without the sources' URLs."""
    plan = PlanLog(output.store, output.path, stored_fingerprint(contract), lambda id_: "")
    plan.refresh()
    return plan
