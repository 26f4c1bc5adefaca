"""Repeated texts of a run: found, scored once, known to the units that have them."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from bertbatch.errors import SourceError
from bertbatch.inputs import rows
from bertbatch.job.input import Input
from bertbatch.repeats.search import Search
from bertbatch.repeats.stored import stored_hashes
from bertbatch.runtime.counts import Record
from bertbatch.runtime.executors.executor import Executor
from bertbatch.runtime.known_texts import hashes_of
from bertbatch.runtime.preflight import Preflight
from bertbatch.runtime.result import Totals
from bertbatch.runtime.scheduler import Scheduler
from bertbatch.runtime.work import ReadTask
from bertbatch.units import Unit
from bertbatch.wording import counted

log = logging.getLogger("bertbatch")

THREADS = 4  # that read at once


@dataclass
class RepeatedTexts:
    """What was found. Without a search nothing is repeated."""

    search: Search | None = None

    def score(self, executor: Executor, totals: Totals, should_stop: Callable[[], bool]) -> None:
        """Scores each repeated text once and stores the answers."""

        def observe(record: Record) -> None:
            totals.texts_once += record.counts.rows_scored
            totals.real_tokens += record.counts.real_tokens
            totals.computed_tokens += record.counts.computed_tokens

        units = self.search.first_units() if self.search else iter(())
        Scheduler(executor, observe, should_stop).run(ReadTask([unit]) for unit in units)

    def known_to(self, tasks: Iterable[ReadTask]) -> Iterator[ReadTask]:
        """The tasks, with what their units are to know."""
        for task in tasks:
            if self.search is None:
                yield task
            else:
                units = [self.search.with_repeats(unit) for unit in task.units]
                yield ReadTask(units, task.divisible)


def find_repeated(
    preflight: Preflight, folder: Path, workers: int, should_stop: Callable[[], bool]
) -> RepeatedTexts:
    """Reads all texts that are not scored yet, and looks for equal ones.

    A source that cannot be read is left to those who will score it.
    """
    context = preflight.context()
    asked = rows.texts_alone(context.job.input, context.types)
    units = [unit for unit in preflight.plan.units.values() if not unit.retry]
    search = Search(folder, preflight.pending(units))
    log.info("looking for repeated texts")
    for name, hashes in stored_hashes(preflight.output):
        search.add_stored(name, hashes)
    waiting: deque[Future[list[tuple[Unit, pa.Array]]]] = deque()
    total = 0

    def take() -> None:
        nonlocal total
        for unit, hashes in waiting.popleft().result():
            search.add(unit, hashes)
            total += len(hashes)

    with ThreadPoolExecutor(THREADS) as pool:
        for task in preflight.tasks(units):
            if should_stop():
                return RepeatedTexts()
            waiting.append(pool.submit(_hashes, preflight, asked, task.units))
            if len(waiting) > 2 * THREADS:
                take()
        while waiting:
            take()
    search.finish(workers)
    log.info(
        "%s of %s have a text that occurs in several units: %s to be scored for them",
        f"{search.rows:,}",
        counted(total, "row"),
        counted(search.texts, "text"),
    )
    return RepeatedTexts(search)


def _hashes(
    preflight: Preflight, asked: tuple[Input, rows.Types], units: Sequence[Unit]
) -> list[tuple[Unit, pa.Array]]:
    found = []
    try:
        for unit, chunks in rows.read_units(preflight.reader, *asked, units, preflight.rules):
            found.append((unit, hashes_of(chunks)))
    except SourceError:
        pass
    return found
