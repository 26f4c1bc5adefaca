"""Repeated texts of a run: found, scored once, known to the units that have them."""

import logging
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from bertbatch.errors import JobError, SourceError
from bertbatch.inputs import rows
from bertbatch.job.input import Input
from bertbatch.repeats.search import Search
from bertbatch.repeats.stored import stored_hashes
from bertbatch.runtime.counts import Record
from bertbatch.runtime.executors.executor import Executor
from bertbatch.runtime.known_texts import answer_fields, hashes_of
from bertbatch.runtime.phases import phase
from bertbatch.runtime.preflight import Preflight
from bertbatch.runtime.result import Totals
from bertbatch.runtime.scheduler import Scheduler
from bertbatch.runtime.scratch import TEXTS, Scratch
from bertbatch.runtime.work import ReadTask
from bertbatch.units import Unit
from bertbatch.wording import counted

log = logging.getLogger("bertbatch")

THREADS = 4  # that read at once


@dataclass
class RepeatedTexts:
    """What was found, on the disk until it is closed. Without a search nothing is repeated."""

    search: Search | None = None
    folder: ExitStack = field(default_factory=ExitStack)

    def score(self, executor: Executor, totals: Totals, should_stop: Callable[[], bool]) -> int:
        """Scores each repeated text once and stores the answers.

        What fails here is scored by the units that have it. Returns how many workers died.
        """
        if self.search is None:
            return 0

        def observe(record: Record) -> None:
            totals.texts_once += record.counts.rows_scored
            totals.real_tokens += record.counts.real_tokens
            totals.computed_tokens += record.counts.computed_tokens

        tasks = (ReadTask([unit]) for unit in self.search.first_units())
        return Scheduler(executor, observe, should_stop).run(tasks).worker_deaths

    def known_to(self, tasks: Iterable[ReadTask]) -> Iterator[ReadTask]:
        """The tasks, with what their units are to know."""
        for task in tasks:
            if self.search is None:
                yield task
            else:
                units = [self.search.with_repeats(unit) for unit in task.units]
                yield ReadTask(units, task.divisible)


def find_repeated(
    preflight: Preflight, workers: int, should_stop: Callable[[], bool]
) -> RepeatedTexts:
    """Reads all texts that are not scored yet, and looks for equal ones.

    A source that cannot be read is left to those who will score it, and without room on the disk
    every unit scores its own texts.
    """
    with ExitStack() as stack:
        try:
            scratch = Scratch(TEXTS, Path(tempfile.gettempdir()))
            stack.callback(scratch.close, keep=False)
            search = _search(preflight, Path(scratch.path), workers, should_stop)
        except OSError as error:
            log.warning("repeated texts cannot be looked for, and are scored each time: %s", error)
            return RepeatedTexts()
        if search is None:
            return RepeatedTexts()
        return RepeatedTexts(search, stack.pop_all())


def _search(
    preflight: Preflight, folder: Path, workers: int, should_stop: Callable[[], bool]
) -> Search | None:
    """None if the run is to stop. Raises OSError of the disk, and of listing the stored answers."""
    context = preflight.context()
    asked = rows.texts_alone(context.job.input, context.types)
    units = [unit for unit in preflight.plan.units.values() if not unit.retry]
    search = Search(folder, preflight.pending(units))
    phase("looking for repeated texts")
    for name, hashes in stored_hashes(preflight.output, answer_fields(context)):
        search.add_stored(name, hashes)
    waiting: deque[Future[list[tuple[Unit, pa.Array]]]] = deque()
    tasks = preflight.tasks(units)
    total = 0
    pool = ThreadPoolExecutor(THREADS)
    try:
        while not should_stop():
            task = next(tasks, None)
            if task is not None:
                waiting.append(pool.submit(_hashes, preflight, asked, task.units))
            if task is None and not waiting:
                break
            if task is None or len(waiting) > 2 * THREADS:
                for unit, found in waiting.popleft().result():
                    search.add(unit, found)
                    total += len(found)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    for _ in search.partitions():
        if should_stop():
            return None
    search.group(workers)
    if not search.rows:
        log.info("none of %s has a text that occurs in several units", counted(total, "row"))
        return search
    log.info(
        "%s of %s have a text that occurs in several units: %s to be scored for them",
        f"{search.rows:,}",
        counted(total, "row"),
        counted(search.texts, "text"),
    )
    return search


def _hashes(
    preflight: Preflight, asked: tuple[Input, rows.Types], units: Sequence[Unit]
) -> list[tuple[Unit, pa.Array]]:
    found = []
    try:
        for unit, chunks in rows.read_units(preflight.reader, *asked, units, preflight.rules):
            found.append((unit, hashes_of(chunks)))
    except (JobError, SourceError):
        pass
    except Exception as error:  # as of a unit that fails for it when it is read to be scored
        log.warning("%s: its texts are not compared: %s", units[0].part, error)
    return found
