"""A run, from its job to its record.

Everything that can be known to be wrong is found before the first write.
"""

import logging
import time
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from bertbatch import __version__
from bertbatch.errors import JobError, RunError
from bertbatch.job.schema import Job
from bertbatch.output.folder import Output, open_output
from bertbatch.output.lease import Lease
from bertbatch.runtime.alarms import empty_as_alarm, evaluate
from bertbatch.runtime.counts import ENOUGH_ROWS, Record
from bertbatch.runtime.executors.executor import Executor, chosen
from bertbatch.runtime.executors.idle import IdleExecutor
from bertbatch.runtime.executors.start import Starting
from bertbatch.runtime.failures import Outcome
from bertbatch.runtime.judgement import Ending, Judgement, judge
from bertbatch.runtime.notices import QuarantineReasons, tell_before
from bertbatch.runtime.preflight import Preflight, check_job
from bertbatch.runtime.repeated_texts import RepeatedTexts, find_repeated
from bertbatch.runtime.rescue import rescue
from bertbatch.runtime.result import ProgressListener, Result, Totals
from bertbatch.runtime.scheduler import END_SECONDS, Scheduler
from bertbatch.runtime.signals import StopSignal
from bertbatch.runtime.source_changes import find_changes
from bertbatch.runtime.text_warnings import TextWarnings
from bertbatch.runtime.work import ReadTask
from bertbatch.units import Unit
from bertbatch.wording import counted, shorten

log = logging.getLogger("bertbatch")


def run(job: Job, listener: ProgressListener | None = None, verbose: bool = False) -> Result:
    """Runs a job to its end; the same job again resumes, or scores only what is new.

    Raises JobError if the job cannot start, Alarm if its input is empty and it says that this is
    one; nothing is written then.
    """
    with Starting(job, verbose) as starting:
        return run_started(job, starting, listener)


def run_started(job: Job, starting: Starting, listener: ProgressListener | None = None) -> Result:
    """As `run`, where what is likely to be needed has begun to start."""
    try:
        with empty_as_alarm(job):
            return _Run(job, listener or ProgressListener(), starting).run()
    except OSError as error:  # of the plan, the records: parts have retries of their own
        raise RunError(f"the storage failed: {error}") from error


def preflight(job: Job) -> Preflight:
    """What a run of the job would find. Raises what it would raise before it begins."""
    if job.alarms.against is not None:
        open_output(job.alarms.against, job.output.storage_options)
    with empty_as_alarm(job):
        return check_job(job)


class _Run:
    def __init__(self, job: Job, listener: ProgressListener, starting: Starting):
        self._job = job
        self._listener = listener
        self._starting = starting
        self._began = time.monotonic()
        self._began_at = datetime.now(UTC)
        self._id = f"{self._began_at:%Y%m%dT%H%M%S.%f}-{uuid.uuid4().hex[:6]}"
        self._totals = Totals()
        self._signal = StopSignal()
        self._too_many_quarantined = self._out_of_time = False
        self._scoring_began: float | None = None
        self._last_commit = 0.0
        self._chosen: dict[str, Any] = {}  # by each kind of worker; see worker.py
        self._to_withdraw: set[str] = set()
        against = job.alarms.against
        options = job.output.storage_options
        self._before = open_output(against, options) if against is not None else None
        self._lease = Lease(Output.of(job), self._id, job.runtime.on_busy)
        self._begun = False  # whether the output exists
        self._begun_now = False  # whether this run has begun to write

    def run(self) -> Result:
        self._listener.began(self._id)
        # After waiting for another run, look again: it may have done everything.
        while (something := self._refresh()) and self._lease.wait():
            pass
        preflight = self._preflight
        self._report()
        if not something:
            return self._finish(Outcome())
        preflight.output.try_out()
        idle = not (self._to_withdraw or preflight.may_have_rows())
        executor = IdleExecutor() if idle else self._starting.executor(preflight)
        # To the end: a signal while the record is written must not leave it half written.
        with self._signal.handled():
            try:
                if not preflight.output.write_contract(preflight.contract):
                    log.warning(
                        "%s: this store overwrites a file that exists, even if asked not to: two "
                        "concurrent runs could both write a unit; run one at a time",
                        self._job.output.path,
                    )
                self._lease.take()
                # Another run may have been at work while the model was loaded.
                preflight.committed = preflight.output.committed()
                self._count_planned(preflight.plan.refresh())
                self._count_done()
                self._check_shared(executor)
                self._begun = self._begun_now = True
                preflight.output.clear_success()
                self._withdraw()
                if self._job.runtime.retry_quarantined:
                    self._count_planned(preflight.revisions.plan_retry(preflight.listed))
                rates = [kind.get("rate", 0.0) for kind in executor.kinds.values()]
                self._planner.size = preflight.unit_size(executor.workers, max(rates, default=0.0))
                self._listener.started(self._totals, executor.workers, executor.kinds)
                self._scoring_began = time.monotonic()
                outcome = self._score(executor)
            except JobError as error:
                raise RunError(str(error)) if self._begun_now else error from None
            finally:
                self._chosen = chosen(executor)
                executor.close()
                self._lease.release()
            return self._finish(outcome)

    def _refresh(self) -> bool:
        """Checks the job as it is now; whether there is anything to do."""
        self._preflight = preflight = check_job(self._job)
        texts = [TextWarnings(preflight.job, *each) for each in preflight.specs.items()]
        self._watching: list[QuarantineReasons | TextWarnings] = [QuarantineReasons(), *texts]
        self._begun = not preflight.is_new
        self._planner = preflight.planner(store_entries=True)
        changes = find_changes(preflight)
        self._to_withdraw = changes.withdraw
        self._planner.failed.update(changes.failed)
        pending = preflight.pending(preflight.plan.units.values())
        if pending or self._to_withdraw or preflight.fresh():
            return True
        if not self._job.runtime.retry_quarantined:
            return False
        return next(preflight.revisions.retryable_rows(preflight.listed), None) is not None

    def _report(self) -> None:
        """Logs what is worth knowing before the work begins, and counts what is done."""
        preflight = self._preflight
        tell_before(preflight)
        self._count_planned(preflight.plan.units.values())
        if done := self._count_done():
            log.info(
                "%s of %s planned units done before (%s)",
                f"{done:,}",
                f"{len(preflight.plan.units):,}",
                counted(self._totals.rows_before, "row"),
            )

    def _count_done(self) -> int:
        """Counts the units that are committed already."""
        units = self._preflight.plan.units.values()
        done = [unit for unit in units if unit.id in self._preflight.committed]
        self._totals.units_before = len(done)
        self._totals.rows_before = sum(unit.new_rows for unit in done)
        return len(done)

    def _check_shared(self, executor: Executor) -> None:
        """Raises JobError if the output is a local path that is another disk on another node."""
        if not (self._preflight.output.store.is_local and self._lease.held):
            return
        if blind := executor.blind_nodes(self._lease.path, self._id):
            raise JobError(
                f"output.path {self._job.output.path} is not the same folder on every node: "
                f"{shorten(blind)} cannot see what was written there; name a folder that all "
                "nodes share, or a URL"
            )

    def _score(self, executor: Executor) -> Outcome:
        repeated = self._repeated(executor)
        with repeated.folder:
            deaths = repeated.score(executor, self._totals, self._should_stop)
            self._scheduler = scheduler = Scheduler(executor, self._observe, self._should_stop)
            outcome = scheduler.run(repeated.known_to(self._tasks()))
            while not outcome.stopped and (tasks := self._rescued(outcome)):
                outcome = scheduler.run(iter(tasks))
        outcome.worker_deaths += deaths
        return outcome

    def _repeated(self, executor: Executor) -> RepeatedTexts:
        if self._job.input.dedupe is None:
            return RepeatedTexts()
        for _ in self._new_units():  # to the end, since texts may be repeated anywhere
            if self._should_stop():
                return RepeatedTexts()
        return find_repeated(self._preflight, executor.workers, self._should_stop)

    def _tasks(self) -> Iterator[ReadTask]:
        """Every read task: of units planned earlier, then of new ones as they are planned.

        Before a unit runs in the place of a withdrawn one, that one has its tombstone.
        """
        preflight = self._preflight
        preflight.revisions.write_tombstones()
        yield from preflight.tasks(list(preflight.plan.units.values()))
        if self._job.input.dedupe is None:
            for units in self._new_units():
                yield from preflight.tasks(units)
        while units := preflight.plan.refresh():  # what another run has planned meanwhile
            preflight.revisions.write_tombstones()
            self._count_planned(units)
            yield from preflight.tasks(units)

    def _new_units(self) -> Iterator[list[Unit]]:
        """The units of new sources, as they are planned."""
        preflight = self._preflight
        for units in self._planner.extend(preflight.listing.sources):
            preflight.output.clear_success()  # again: another run may have ended before this entry
            preflight.revisions.write_tombstones()
            self._count_planned(units)
            yield units

    def _withdraw(self) -> None:
        """Takes sources out of the plan that changed or vanished; see `find_changes`."""
        preflight = self._preflight
        if self._to_withdraw:
            preflight.revisions.withdraw(self._to_withdraw)
            self._totals.units_planned = self._totals.rows_planned = 0
            self._count_planned(preflight.plan.units.values())

    def _rescued(self, outcome: Outcome) -> list[ReadTask]:
        """Read tasks for the good sources of units that failed because of a bad one."""
        added, withdrawn = rescue(self._preflight, outcome)
        self._count_planned(added)
        self._totals.units_planned -= len(withdrawn)
        self._totals.rows_planned -= sum(unit.new_rows for unit in withdrawn)
        return [ReadTask([unit]) for unit in added]

    def _count_planned(self, units: Iterable[Unit]) -> None:
        for unit in units:
            self._totals.units_planned += 1
            self._totals.rows_planned += unit.new_rows

    def _observe(self, record: Record) -> None:
        totals = self._totals
        unit = self._preflight.plan.units.get(record.unit)  # None: another run has withdrawn it
        planned = unit.rows if unit else record.counts.rows
        if record.ours and record.counts.rows != planned:
            raise RuntimeError(
                f"unit {record.unit}: {planned} rows in, {record.counts.rows} accounted for"
            )
        totals.units += 1
        totals.add(record.counts)
        if not (unit and unit.retry):
            totals.new.add(record.counts)
        self._last_commit = time.monotonic()
        totals.bottleneck = self._scheduler.bottleneck
        self._listener.progressed(totals, unit)
        seconds = round(time.monotonic() - (self._scoring_began or 0), 1)
        self._lease.set_progress({"rows": totals.rows, "tokens": totals.tokens, "seconds": seconds})
        rows, bad = totals.new.rows_selected, totals.new.rows_quarantined
        if rows >= ENOUGH_ROWS and not self._too_many_quarantined:
            self._too_many_quarantined = bad / rows > self._job.limits.max_quarantined
        for watching in self._watching:
            watching.look(totals)

    def _should_stop(self) -> bool:
        if self._job.limits.max_hours is not None and not self._out_of_time:
            seconds = self._job.limits.max_hours * 3600 - END_SECONDS
            self._out_of_time = time.monotonic() - self._began > seconds
        over = self._out_of_time or self._too_many_quarantined
        return over or self._lease.lost or bool(self._signal.number)

    def _finish(self, outcome: Outcome) -> Result:
        """Writes the run's record, and `_SUCCESS.json` if every planned unit is committed."""
        preflight = self._preflight
        failed = {**self._planner.failed, **outcome.failed_sources}
        judgement: Judgement | None = None

        def success() -> dict[str, Any] | None:
            nonlocal judgement
            judgement = judge(preflight, self._totals, self._ending(failed, outcome.failed_units))
            if judgement.exit_code or not self._begun:
                return None
            # If nothing was new, the record of the run that finished the plan stays.
            stored, totals = preflight.output.success(), judgement.totals
            return totals if stored is None or stored["plan"] != totals["plan"] else None

        preflight.revisions.write_success_if_complete(success)
        assert judgement is not None
        code = judgement.exit_code
        judged = None if code else evaluate(preflight, self._before, self._totals)
        alarms, night = judged or ([], {})
        code = 4 if alarms else code
        if self._begun:
            planned = preflight.plan.sources
            marks = {id_: planned[id_].fingerprint if id_ in planned else "" for id_ in failed}
            record = {
                **judgement.totals,
                "exit_code": code,
                "alarms": alarms,
                "advice": judgement.advice,
                "date": str(self._job.date),
                "began": self._began_at.isoformat(timespec="seconds"),
                "chosen": self._chosen,
                "job": self._job.public,
                "this_run": self._totals.record,
                **({"night": night} if night else {}),
                "entries": preflight.plan.size,
                "failed_sources": {id_: [marks[id_], why] for id_, why in failed.items()},
                "failed_units": outcome.failed_units,
                "worker_deaths": outcome.worker_deaths,
                "version": __version__,
            }
            preflight.output.write_run(self._id, record)
        result = Result(
            exit_code=code,
            totals=judgement.totals,
            run=self._totals,
            failed_sources=failed,
            failed_units=outcome.failed_units,
            output=preflight.output,
            advice=judgement.advice,
            alarms=alarms,
        )
        self._listener.finished(result)
        return result

    def _ending(self, failed: dict[str, str], failed_units: dict[str, str]) -> Ending:
        scored = self._totals.units > 0
        return Ending(
            run=self._id,
            seconds=time.monotonic() - self._began,
            scoring_seconds=self._last_commit - (self._scoring_began or 0) if scored else 0.0,
            signal=self._signal.number,
            lease_lost=self._lease.lost,
            too_many_quarantined=self._too_many_quarantined,
            out_of_time=self._out_of_time,
            failed_sources=failed,
            failed_units=failed_units,
        )
