"""The plan: which rows of which source make a unit, decided once and kept with the output.

The stored plan is a log: numbered entries in `_bertbatch/plan/`, each created only if
absent, each naming sources and how they are cut into units. The first run to meet a source
appends its cuts; every other run loads them. One log, rather than a file for each source,
so that a hundred thousand small sources cost a hundred objects, and so that which of them
share a unit is one atomic decision.
"""

import gzip
import json
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from bertbatch.errors import SourceError
from bertbatch.inputs.formats.reader import CutSize, Reader
from bertbatch.job.schema import Input, Runtime
from bertbatch.output.folder import Output, stored_fingerprint
from bertbatch.output.records import MOST, reading
from bertbatch.storage.stores import Store
from bertbatch.units import Again, Cut, Source, Span, Unit, digest, unit_id

log = logging.getLogger("bertbatch")

# About 256k tokens: large enough that reading, committing and Ray cost little beside the
# scoring, small enough that a worker's death costs little.
UNIT_TEXT_BYTES = 1 << 20
UNIT_CARRIED_BYTES = 64 << 20
UNIT_ROWS = 1 << 16
# A small input is cut finer, so that many workers can share it and end together; but no
# finer than what still fills batches well.
UNITS = 64
LEAST_TEXT_BYTES = 1 << 16

# What one entry of the log covers at most: bounds what is planned before any of it runs.
ENTRY_SOURCES = 2000
ENTRY_BYTES = 1 << 30


def cut_size(runtime: Runtime, input_bytes: int) -> CutSize:
    """How large units of an input of so many bytes may grow."""
    text_bytes = min(max(input_bytes // UNITS, LEAST_TEXT_BYTES), UNIT_TEXT_BYTES)
    carried, rows = UNIT_CARRIED_BYTES, UNIT_ROWS
    if runtime.unit_mib is not None:
        text_bytes = int(runtime.unit_mib * (1 << 20))
        carried, rows = max(carried, text_bytes), max(rows, int(runtime.unit_mib * rows))
    return CutSize(text_bytes, carried, runtime.unit_rows or rows)


@dataclass
class Entry:
    """One entry of the log: sources newly planned, and the units that they are cut into.

    `withdrawn` are ids of units that this entry puts out of force for good, with those that
    score their rows again; see `revisions.py`. Sources of such units that it does not name
    itself are no longer planned.
    """

    sources: list[Source]
    units: list[tuple[Span, ...]]
    withdrawn: list[str] = field(default_factory=list)
    again: list[Again] = field(default_factory=list)  # rows to score once more

    def encode(self) -> bytes:
        number = {source.id: i for i, source in enumerate(self.sources)}
        data = {
            "sources": [[s.id, s.size, s.stamp] for s in self.sources],
            "units": [
                [[number[s.source.id], *_cut_fields(s.cut)] for s in spans] for spans in self.units
            ],
            "withdrawn": self.withdrawn,
            "again": [[again.unit, again.rows] for again in self.again],
        }
        return gzip.compress(json.dumps(data, separators=(",", ":")).encode(), 6, mtime=0)

    @staticmethod
    def decode(data: bytes, urls: dict[str, str]) -> "Entry":
        """Raises ValueError and others if this is not an entry."""
        content = json.loads(gzip.decompress(data))
        sources = [
            Source(_is(str, id_), urls.get(id_, ""), _is(int, size), _is(str, stamp))
            for id_, size, stamp in content["sources"]
        ]
        units = [
            tuple(Span(sources[_is(int, n)], Cut(*_counts(cut))) for n, *cut in spans)
            for spans in content["units"]
        ]
        if not all(units):
            raise ValueError("it has a unit of nothing")
        again = [
            Again(_is(str, id_), tuple((_is(str, s), _is(int, n)) for s, n in rows))
            for id_, rows in content.get("again", [])
        ]
        return Entry(sources, units, [_is(str, id_) for id_ in content["withdrawn"]], again)


def _is(kind: type[Any], value: Any) -> Any:
    """The value. Raises ValueError if it is of another kind, or no count."""
    if type(value) is not kind or (kind is int and not 0 <= value < MOST):
        raise ValueError(f"{value!r:.80} is not what a plan has there")
    return value


def _counts(values: list[Any]) -> list[int]:
    return [_is(int, value) for value in values]


def _cut_fields(cut: Cut) -> tuple[int, int, int, int, int]:
    return cut.first_row, cut.rows, cut.start, cut.stop, cut.bytes


class PlanLog:
    """The stored plan of one output: sources and units in force, and how to append.

    Without a store (a dry run) the plan is read and extended in memory only.
    """

    def __init__(self, store: Store, output: str, fingerprint: str, urls: dict[str, str]):
        self.sources: dict[str, Source] = {}
        self.units: dict[str, Unit] = {}
        self.withdrawn: dict[str, Unit] = {}  # out of force
        self.unsettled: dict[str, Unit] = {}  # those of them that may still have rows
        self.size = 0  # entries read so far
        self._store = store
        self._folder = f"{output}/_bertbatch/plan"
        self._fingerprint = fingerprint
        self._urls = urls

    def refresh(self) -> list[Unit]:
        """Reads the entries that others have appended; the units that they add."""
        added: list[Unit] = []
        for name in self._store.names(self._folder)[self.size :]:
            added += self.apply(self._entry(f"{self._folder}/{name}"))
        return added

    def append(self, entry: Entry) -> tuple[bool, list[Unit]]:
        """Appends an entry, or else reads the one that another run has put in its place.

        Returns whether the entry is now in the log, and the units that came into force.
        """
        path = f"{self._folder}/{self.size:08d}.json.gz"
        data = entry.encode()
        for attempt in range(3):
            try:
                self._store.create(path, data)
                return True, self.apply(entry)
            except FileExistsError:
                break
            except OSError:
                # The reply may have been lost after the entry was created: look again.
                if attempt == 2:
                    raise
        theirs = self._entry(path)
        return theirs.encode() == data, self.apply(theirs)

    def _entry(self, path: str) -> Entry:
        """Raises JobError if the file is none: nothing can be known of what it planned."""
        data = self._store.read(path)
        with reading(path):
            return Entry.decode(data, self._urls)

    def apply(self, entry: Entry) -> list[Unit]:
        """Puts an entry in force, in this value only; the units that it adds."""
        gone = set(entry.withdrawn)
        for unit in list(self.units.values()) if gone else ():
            # What scores some of its rows again comes later and goes with it.
            if unit.id in gone or (unit.again and unit.again.unit in gone):
                gone.add(unit.id)
                self.withdrawn[unit.id] = self.unsettled[unit.id] = self.units.pop(unit.id)
                for span in unit.spans:
                    self.sources.pop(span.source.id, None)
        for source in entry.sources:
            self.sources[source.id] = source
        added = []
        for spans in entry.units:
            unit = Unit(unit_id(spans, self._fingerprint), spans)
            while unit.id in self.withdrawn:  # planned again: another id, for that part is void
                unit = Unit(unit_id(spans, unit.id), spans)
            self.units[unit.id] = unit
            added.append(unit)
        for again in entry.again:
            if (of := self.units.get(again.unit)) is not None:  # None: withdrawn meanwhile
                sources = {source for source, _ in again.rows}
                spans = tuple(span for span in of.spans if span.source.id in sources)
                unit = Unit(digest(["again", of.id])[:20], spans, again)
                self.units[unit.id] = unit
                added.append(unit)
        self.size += 1
        return added


def stored_plan(output: Output, contract: dict[str, Any]) -> PlanLog:
    """The plan of an output that is only read: without the job, and so without sources' URLs."""
    plan = PlanLog(output.store, output.path, stored_fingerprint(contract), {})
    plan.refresh()
    return plan


@dataclass
class Planner:
    """Cuts the sources that no entry covers yet, entry by entry, as a stream."""

    log: PlanLog
    reader: Reader
    options: Input
    size: CutSize
    store_entries: bool = True
    failed: dict[str, str] = field(default_factory=dict)  # source id → reason
    threads: int = 8

    def extend(self, sources: Iterable[Source]) -> Iterator[list[Unit]]:
        """The units of each entry, once it is stored. Sources that fail go to `failed`."""
        rows_left = self.options.limit
        if rows_left is not None:
            rows_left -= sum(unit.new_rows for unit in self.log.units.values())
        fresh = (s for s in sources if s.id not in self.log.sources)
        with ThreadPoolExecutor(self.threads) as pool:
            while batch := _take(fresh):
                if rows_left is not None and rows_left <= 0:
                    return
                cuts: dict[Source, list[Cut]] = {}
                for source, result in zip(batch, pool.map(self._cut, batch), strict=True):
                    if isinstance(result, SourceError):
                        self.failed[source.id] = result.reason
                        where = {"source": source.id}
                        log.warning("source failed: %s", result, extra=where)
                        continue
                    if rows_left is not None:
                        result = _first_rows(result, rows_left)
                        rows_left -= sum(cut.rows for cut in result)
                    cuts[source] = result
                yield self._store(cuts)

    def _cut(self, source: Source) -> list[Cut] | SourceError:
        try:
            return list(self.reader.cut(source, self.size, self.options))
        except SourceError as error:
            return error

    def _store(self, cuts: dict[Source, list[Cut]]) -> list[Unit]:
        added: list[Unit] = []
        while cuts:
            entry = Entry(list(cuts), list(group(cuts, self.size)))
            if not self.store_entries:
                return self.log.apply(entry)
            stored, units = self.log.append(entry)
            added += units
            if stored:
                break
            # Another run was first: what it has planned is in force, the rest is still ours.
            cuts = {s: c for s, c in cuts.items() if s.id not in self.log.sources}
        return added


def _take(sources: Iterator[Source]) -> list[Source]:
    """The sources of the next entry."""
    taken: list[Source] = []
    size = 0
    for source in sources:
        taken.append(source)
        size += source.size
        if len(taken) >= ENTRY_SOURCES or size >= ENTRY_BYTES:
            break
    return taken


def group(cuts: dict[Source, list[Cut]], size: CutSize) -> Iterator[tuple[Span, ...]]:
    """Units from cuts: consecutive small sources share one, every other cut is its own."""
    small: list[Span] = []
    used = rows = 0
    for source, parts in cuts.items():
        whole = len(parts) == 1 and 2 * parts[0].bytes < size.text_bytes
        for cut in parts:
            if not whole:
                yield (Span(source, cut),)
                continue
            if small and (used + cut.bytes > size.text_bytes or rows + cut.rows > size.rows):
                yield tuple(small)
                small, used, rows = [], 0, 0
            small.append(Span(source, cut))
            used, rows = used + cut.bytes, rows + cut.rows
    if small:
        yield tuple(small)


def _first_rows(cuts: list[Cut], rows: int) -> list[Cut]:
    """The cuts of the first `rows` rows, the last one shortened."""
    kept = []
    for cut in cuts:
        if rows <= 0:
            break
        n = min(rows, cut.rows)
        kept.append(Cut(cut.first_row, n, cut.start, cut.stop, cut.bytes * n // cut.rows))
        rows -= n
    return kept
