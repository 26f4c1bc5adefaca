"""Cuts new sources into units, as a stream of entries for the plan's log."""

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from bertbatch.errors import SourceError
from bertbatch.inputs.formats.reader import CutSize, Reader
from bertbatch.job.input import Input
from bertbatch.plan.log import ENTRY_BYTES, ENTRY_SOURCES, Entry, PlanLog
from bertbatch.units import Cut, Source, Span, Unit

log = logging.getLogger("bertbatch")


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
        """Yields each entry's units once it is stored. Sources that fail go to `failed`."""
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
