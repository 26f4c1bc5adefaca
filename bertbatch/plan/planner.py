"""Cuts new sources into units, as a stream of entries for the plan's log."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pyarrow as pa

from bertbatch.errors import SourceError
from bertbatch.inputs.formats.reader import CutSize, Reader
from bertbatch.inputs.rows import planned_cuts
from bertbatch.inputs.selection import shorten
from bertbatch.job.input import Input
from bertbatch.plan.log import ENTRY_BYTES, ENTRY_SOURCES, Entry, PlanLog, TableVersion
from bertbatch.units import Cut, Source, Span, Unit, selected

log = logging.getLogger("bertbatch")


@dataclass
class Planner:
    """Cuts the sources that no entry covers yet, entry by entry, as a stream."""

    log: PlanLog
    reader: Reader
    options: Input
    size: CutSize
    store_entries: bool = True
    where: pa.Schema = field(default_factory=lambda: pa.schema([]))  # types of its columns
    rules: Mapping[str, int] = field(default_factory=dict)  # of the output
    table: tuple[str, int] | None = None  # the id of an input table, the version to plan
    failed: dict[str, str] = field(default_factory=dict)  # source id → reason
    threads: int = 8

    def extend(self, sources: Iterable[Source]) -> Iterator[list[Unit]]:
        """Yields each entry's units once it is stored. Sources that fail go to `failed`."""
        rows_left = self.options.limit
        if rows_left is not None:
            rows_left -= sum(unit.selected for unit in self.log.units.values())
        if not self._say_table(done=False):
            return
        fresh = (s for s in sources if s.id not in self.log.sources)
        with ThreadPoolExecutor(self.threads) as pool:
            while batch := _take(fresh):
                if rows_left is not None and rows_left <= 0:
                    return
                cuts: dict[Source, list[Cut]] = {}
                for source, result in zip(batch, pool.map(self._cut, batch), strict=True):
                    if rows_left is not None and not isinstance(result, SourceError):
                        result = self._first_rows(source, result, rows_left)
                    if isinstance(result, SourceError):
                        self.failed[source.id] = result.reason
                        where = {"source": source.id}
                        log.warning("source failed: %s", result, extra=where)
                        continue
                    if rows_left is not None:
                        rows_left -= selected(result)
                    cuts[source] = result
                yield self._store(cuts)
        if not self.failed:
            self._say_table(done=True)

    def _say_table(self, done: bool) -> bool:
        """Stores which version of an input table is being planned, or is.

        Returns false if another run has begun to plan another one.
        """
        if self.table is None or not self.store_entries:
            return True
        id_, version = self.table
        now = TableVersion(version, done)
        while not {now, replace(now, done=True)} & {*self.log.tables.get(id_, [])}:
            self.log.append(Entry([], [], tables={id_: now}))
            begun = [each for each in self.log.tables.get(id_, []) if not each.done]
            if begun and begun[-1].version != version:
                return False
        return True

    def _cut(self, source: Source) -> list[Cut] | SourceError:
        try:
            return list(planned_cuts(self.reader, self.options, source, self.size))
        except SourceError as error:
            return error

    def _first_rows(self, source: Source, cuts: list[Cut], rows: int) -> list[Cut] | SourceError:
        """The cuts of a source's first rows, of those that are not left out."""
        if self.options.where is None or rows <= 0:
            return _first_rows(cuts, rows)
        try:
            return shorten(self.reader, source, cuts, self.options, self.where, self.rules, rows)
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
            # Another run was first: what it has planned is planned, the rest is still to do.
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
        kept.append(replace(cut, rows=n, bytes=cut.bytes * n // cut.rows))
        rows -= n
    return kept
