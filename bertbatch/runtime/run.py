"""A run from job to totals: check, plan, start the workers, drive the pipeline, close the books.

Everything that can be known to be wrong is found before the first write.
"""

import logging
import signal
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from bertbatch.errors import Alarm, EmptyInput, JobError, RunError
from bertbatch.job.schema import Job
from bertbatch.model.tokenizer import UNKNOWN_SHARE, unknown_words
from bertbatch.output.contract import make_contract, scoring_fingerprint
from bertbatch.output.folder import Output, open_output
from bertbatch.output.lease import Lease
from bertbatch.runtime.alarms import ENOUGH_ROWS, evaluate
from bertbatch.runtime.context import Context
from bertbatch.runtime.counts import Record
from bertbatch.runtime.preflight import Preflight, check_job
from bertbatch.runtime.result import ProgressListener, Result, Totals
from bertbatch.runtime.scheduler import Outcome, Scheduler
from bertbatch.runtime.source_changes import find_changes
from bertbatch.units import Unit, digest
from bertbatch.wording import shorten

log = logging.getLogger("bertbatch")


def run(job: Job, listener: ProgressListener | None = None, verbose: bool = False) -> Result:
    """Runs a job to its end; the same job again resumes, or scores only what is new.

    Raises JobError if the job cannot start, Alarm if its input is empty and it says that this is
    one; nothing is written then.
    """
    try:
        with _empty(job):
            return _Run(job, listener or ProgressListener(), verbose).run()
    except OSError as error:  # of the plan, the records: parts have retries of their own
        raise RunError(f"the storage failed: {error}") from error


def preflight(job: Job) -> Preflight:
    """What a run of the job would find. Raises what it would raise before it begins."""
    if job.alarms.against is not None:
        open_output(job.alarms.against, job.output.storage_options)
    with _empty(job):
        return check_job(job)


@contextmanager
def _empty(job: Job) -> Iterator[None]:
    """An empty input is an alarm if the job says so."""
    try:
        yield
    except EmptyInput as error:
        raise Alarm(str(error)) if job.alarms.empty_input else error from None


class _Run:
    def __init__(self, job: Job, listener: ProgressListener, verbose: bool):
        self._job = job
        self._listener = listener
        self._verbose = verbose
        self._began = time.monotonic()
        self._began_at = datetime.now(UTC)
        self._id = f"{self._began_at:%Y%m%dT%H%M%S.%f}-{uuid.uuid4().hex[:6]}"
        self._totals = Totals()
        self._signal = 0
        self._too_bad = False
        self._warned = False
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
        # What another run has done while this one waited for it is there already.
        while (something := self._look()) and self._lease.wait():
            pass
        preflight = self._preflight
        self._tell()
        if not something:
            return self._close(Outcome())
        preflight.output.try_out()
        executor = self._start(preflight.context())
        # To the end: what comes while the books are closed must not leave them half written.
        with self._stop_on_signals():
            try:
                contract = make_contract(
                    self._job, preflight.spec, preflight.schema, preflight.rules
                )
                if not preflight.output.write_contract(contract):
                    log.warning(
                        "%s: this store does not create a file only if it is absent: two runs at "
                        "once on this output could both write a unit; run one at a time",
                        self._job.output.path,
                    )
                if self._lease.take():  # another run was at work while the model was loaded
                    preflight.committed = preflight.output.committed()
                    preflight.plan.refresh()
                self._check_shared(executor)
                self._begun = self._begun_now = True
                preflight.output.clear_success()
                self._withdraw()
                if self._job.runtime.retry_quarantined:
                    preflight.revisions.plan_retry(preflight.listed)
                self._listener.started(self._totals, executor.workers, executor.kinds)
                self._scoring_began = time.monotonic()
                pipeline = Scheduler(executor, self._observe, self._should_stop)
                outcome = pipeline.run(self._tasks())
                while not outcome.stopped and (tasks := self._salvaged(outcome)):
                    outcome = pipeline.run(iter(tasks))
            except JobError as error:
                raise RunError(str(error)) if self._begun_now else error from None
            finally:
                self._chosen = {"workers": executor.workers, "kinds": executor.kinds}
                executor.close()
                self._lease.release()
            return self._close(outcome)

    def _look(self) -> bool:
        """Surveys the job; whether there is anything to do."""
        self._preflight = preflight = check_job(self._job)
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

    def _tell(self) -> None:
        """Logs what is worth knowing before the work begins, and counts what is there."""
        preflight = self._preflight
        for reason, count in preflight.listing.left_out.items():
            log.info("left out %d files: %s", count, reason)
        if preflight.spec.quantization:
            log.warning(
                "model.dtype %s changes answers: some labels will not be those of float32",
                preflight.spec.quantization,
            )
        if self._job.attention:
            log.info(
                "attention statistics: the torch engine computes them, in about 1.3 times the time "
                "of long texts without; others are not considered"
            )
        done = [u for u in preflight.plan.units.values() if u.id in preflight.committed]
        self._totals.units_before = len(done)
        self._totals.rows_before = sum(unit.new_rows for unit in done)
        self._count_planned(preflight.plan.units.values())
        if done:
            log.info(
                "%d of %d planned units were already there (%d rows)",
                *(len(done), len(preflight.plan.units), self._totals.rows_before),
            )

    def _check_shared(self, executor: Any) -> None:
        """Raises JobError if the output is a local path that is another disk on another node."""
        if not (self._preflight.output.store.is_local and self._lease.held):
            return
        if blind := executor.blind_nodes(self._lease.path, self._id):
            raise JobError(
                f"output.path {self._job.output.path} is not the same folder on every node: "
                f"{shorten(blind)} cannot see what was written there; name a folder that all "
                "nodes share, or a URL"
            )

    def _start(self, context: Context) -> Any:
        if self._job.runtime.runner == "inline":
            from bertbatch.runtime.executors.inline import InlineExecutor

            return InlineExecutor(context)
        from bertbatch.runtime.executors.ray import RayExecutor

        return RayExecutor(context, self._verbose)

    def _tasks(self) -> Iterator[list[Unit]]:
        """Every read task: of units planned earlier, then of new ones as they are planned."""
        preflight = self._preflight
        self._settle()
        yield from preflight.tasks(list(preflight.plan.units.values()))
        for units in self._planner.extend(preflight.listing.sources):
            preflight.output.clear_success()  # again: another run may have ended before this entry
            self._settle()
            self._count_planned(units)
            yield from preflight.tasks(units)
        while units := preflight.plan.refresh():  # what another run has planned meanwhile
            self._settle()
            self._count_planned(units)
            yield from preflight.tasks(units)

    def _withdraw(self) -> None:
        """Takes sources out of the plan that changed or vanished; see `find_changes`."""
        preflight = self._preflight
        if self._to_withdraw:
            preflight.revisions.withdraw(self._to_withdraw)
            self._totals.units_planned = self._totals.rows_planned = 0
            self._count_planned(preflight.plan.units.values())

    def _settle(self) -> None:
        """Before any unit runs that takes the place of one out of force."""
        self._preflight.revisions.write_tombstones()

    def _salvaged(self, outcome: Outcome) -> list[list[Unit]]:
        """Read tasks for the good sources of units that failed by one bad source among them."""
        preflight = self._preflight
        tasks = []
        for id_ in list(outcome.failed_units):
            unit = preflight.plan.units.get(id_)
            if unit is None or unit.retry or len(unit.spans) == 1:
                continue
            rest = [s for s in unit.spans if s.source.id not in outcome.failed_sources]
            if rest and len(rest) < len(unit.spans):
                units = preflight.revisions.replace_unit(unit, rest)
                del outcome.failed_units[id_]
                self._count_planned(units)
                if id_ not in preflight.plan.units:
                    self._totals.units_planned -= 1
                    self._totals.rows_planned -= unit.new_rows
                tasks += [[unit] for unit in units]
        return tasks

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
        if unit and unit.retry:
            totals.rows_again += record.counts.rows
            totals.quarantined_again += record.counts.rows_quarantined
        self._last_commit = time.monotonic()
        self._listener.progressed(totals, unit)
        seconds = round(time.monotonic() - (self._scoring_began or 0), 1)
        self._lease.set_progress({"rows": totals.rows, "tokens": totals.tokens, "seconds": seconds})
        rows = totals.rows - totals.rows_again
        if rows >= ENOUGH_ROWS and not self._too_bad:
            bad = totals.rows_quarantined - totals.quarantined_again
            self._too_bad = bad / rows > self._job.limits.max_quarantined
        if totals.content >= ENOUGH_ROWS and not self._warned:
            share = totals.unknown / totals.content
            if share > UNKNOWN_SHARE:
                self._warned = True
                log.warning("%s", unknown_words(share, self._preflight.spec.name))

    def _should_stop(self) -> bool:
        return bool(self._signal) or self._too_bad or self._lease.lost

    @contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM stop the run cleanly; a second one at once."""

        def stop(number: int, frame: Any) -> None:
            if self._signal:
                raise KeyboardInterrupt
            self._signal = number
            log.warning("stopping: running commits may finish; once more to stop at once")

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _close(self, outcome: Outcome) -> Result:
        """The run's record, and `_SUCCESS.json` if every planned unit is committed."""
        preflight = self._preflight
        code, advice = 0, ""
        totals: dict[str, Any] = {}

        def judge() -> dict[str, Any] | None:
            nonlocal code, advice, totals
            code, advice, totals = self._judge(outcome)
            if code or not self._begun:
                return None
            # If nothing was new, the record of the run that finished the plan stays.
            success = preflight.output.success()
            return totals if success is None or success["plan"] != totals["plan"] else None

        preflight.revisions.write_success_if_complete(judge)
        failed = {**self._planner.failed, **outcome.failed_sources}
        raised = []
        if not code:
            spans = (span for unit in preflight.plan.units.values() for span in unit.spans)
            empty = not any(s.cut.rows and s.source.id in preflight.listed for s in spans)
            raised = evaluate(self._job, preflight.output, self._before, self._totals, empty)
        if raised:
            code = 4
        if self._begun:
            record = {
                **totals,
                "exit_code": code,
                "alarms": raised,
                "date": str(self._job.date),
                "began": self._began_at.isoformat(timespec="seconds"),
                "chosen": self._chosen,
                "this_run": vars(self._totals),
                "failed_sources": {
                    id_: [
                        preflight.plan.sources[id_].fingerprint
                        if id_ in preflight.plan.sources
                        else "",
                        why,
                    ]
                    for id_, why in failed.items()
                },
                "failed_units": outcome.failed_units,
                "worker_deaths": outcome.worker_deaths,
            }
            preflight.output.write_run(self._id, record)
        result = Result(
            *(code, totals, self._totals, failed, outcome.failed_units, preflight.output, advice),
            raised,
        )
        self._listener.finished(result)
        return result

    def _judge(self, outcome: Outcome) -> tuple[int, str, dict[str, Any]]:
        """The exit code, what to do next, and the output's totals, for the plan as it is."""
        preflight, run_totals = self._preflight, self._totals
        output, units = preflight.output, preflight.plan.units
        failed = {**self._planner.failed, **outcome.failed_sources}
        committed = output.committed()
        done = [unit for unit in units.values() if unit.id in committed]
        rows_in = sum(unit.new_rows for unit in done)
        quarantined = output.quarantined(done)
        plan_id = digest(sorted(units))[:20]
        scoring = self._last_commit - (self._scoring_began or 0) if run_totals.units else 0.0
        totals: dict[str, Any] = {
            "rows_in": rows_in,
            "rows_scored": rows_in - quarantined,
            "rows_quarantined": quarantined,
            "units": len(done),
            "tokens": run_totals.tokens,
            "seconds": round(time.monotonic() - self._began, 3),
            "scoring_seconds": round(scoring, 3),
            "rows_per_second": round(run_totals.rows / scoring, 2) if scoring else 0.0,
            "run": self._id,
            "plan": plan_id,
            "scoring_fingerprint": scoring_fingerprint(preflight.spec),
            "sources": len(preflight.plan.sources),
        }
        self._check_books(run_totals, done, quarantined)
        share = quarantined / rows_in if rows_in >= ENOUGH_ROWS else 0.0
        too_bad = self._too_bad or share > self._job.limits.max_quarantined
        # Rows that were to be scored again and whose source is gone stay in quarantine.
        missing = [
            unit
            for unit in units.values()
            if unit.id not in committed and (not unit.retry or preflight.as_planned(unit))
        ]
        complete = not missing and not failed and not outcome.failed_units
        advice = ""
        if self._signal:
            code = 128 + self._signal
            advice = "run the same command again to go on from here"
        elif self._lease.lost:
            code = 3
            advice = "another run took over while this one did not answer, and goes on"
        elif too_bad:
            code = 3
            advice = (
                f"{quarantined} of {rows_in} rows are in quarantine, more than "
                f"limits.max_quarantined ({self._job.limits.max_quarantined:g}) allows: see the "
                "reasons, mend the cause or raise the limit, and run the same command again"
            )
        elif not complete:
            code = 3
            advice = "mend what failed and run the same command again: the rest is kept"
        else:
            code = 0
        return code, advice, totals

    def _check_books(self, run: Totals, done: Sequence[Unit], quarantined: int) -> None:
        """Rows in = rows scored + rows quarantined, over this run and over the output."""
        rows = sum(unit.new_rows for unit in done)
        if self._preflight.plan.withdrawn:  # then rows may be gone that came, or were there
            return
        came = run.rows - run.rows_again
        if came + run.rows_before > rows:
            raise RuntimeError(
                f"{run.rows_before} rows were there and {came} came, but the parts hold {rows}"
            )
        if run.rows_quarantined > quarantined:
            raise RuntimeError(
                f"{run.rows_quarantined} rows went to quarantine, the parts say {quarantined}"
            )
