"""What is known of a job before it starts: models, input, output checked together.

Nothing is written here, and neither torch nor Ray is imported.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import pyarrow as pa

from bertbatch.errors import JobError, SourceError
from bertbatch.inputs.folders import decoded, partitions
from bertbatch.inputs.formats.reader import CutSize, Reader, reader_of
from bertbatch.inputs.listing import Listing, list_sources
from bertbatch.inputs.rows import planned_cuts
from bertbatch.job.carry import ALL, carried, carry_all
from bertbatch.job.schema import Job
from bertbatch.model.spec import ModelSpec, check_model
from bertbatch.output.contract import (
    compare,
    make_contract,
    rules_of,
    scoring_fingerprint,
    stored_schema,
    stored_where,
)
from bertbatch.output.folder import Output
from bertbatch.output.part import accounted
from bertbatch.output.records import number
from bertbatch.plan.log import PlanLog
from bertbatch.plan.planner import Planner
from bertbatch.plan.revisions import Revisions
from bertbatch.plan.unit_size import cut_size
from bertbatch.runtime.columns_probe import SchemaOf, first_columns, probe, schemas
from bertbatch.runtime.context import Context
from bertbatch.runtime.executors.cpus import available_cores
from bertbatch.runtime.job_checks import check_columns, check_engines, check_group, check_task
from bertbatch.runtime.output_schema import model_fields, output_schema
from bertbatch.runtime.work import ReadTask
from bertbatch.storage import stores
from bertbatch.units import Source, Unit

log = logging.getLogger("bertbatch")

KNOWN_RUNS = 3  # earlier runs that scored, whose calibration is read
LOOKED_BACK = 100  # runs, for one that scored, or of another night
FEW_SOURCES, SMALL_INPUT = 16, 1 << 20  # files, bytes: cut sooner than a model is loaded
LARGE_INPUT = 16 << 20  # bytes; less is scored before a calibration has paid for itself
TOKEN_BYTES = 4  # of a source for each token of text, roughly


@dataclass
class Preflight:
    """Everything that is known of a job before it starts."""

    job: Job
    specs: dict[str, ModelSpec]  # by what their columns begin with
    listing: Listing
    reader: Reader
    output: Output
    schema: pa.Schema
    where: pa.Schema  # the types of the columns that `input.where` names
    is_new: bool  # the output is not begun yet
    plan: PlanLog
    committed: dict[str, str]  # part name by unit id
    rules: dict[str, int]  # of the output

    @cached_property
    def listed(self) -> dict[str, Source]:
        """The listed sources by id."""
        return {source.id: source for source in self.listing.sources}

    @cached_property
    def _bytes(self) -> int:
        """The size of the whole input, as it is stored."""
        return sum(source.size for source in self.listing.sources)

    @cached_property
    def earlier(self) -> list[dict[str, Any]]:
        """The records of the last runs on this output that had workers, the oldest first.

        Nights without anything new, however many, do not hide what the runs before them chose.
        """
        found: list[dict[str, Any]] = []
        for record in islice(self.output.newest_runs(), LOOKED_BACK):
            if record.get("chosen", {}).get("kinds"):
                found.append(record)
            if sum(map(_has_scored, found)) == KNOWN_RUNS:
                break
        return found[::-1]

    @property
    def last_scored(self) -> dict[str, Any] | None:
        """The record of the last run on this output that scored, and says in what time."""
        return next(filter(_has_scored, reversed(self.earlier)), None)

    def context(self) -> Context:
        # Workers may have another environment: `${NAME}` means the driver's.
        options = stores.expand(self.job.input.storage_options)
        input_ = self.job.input.model_copy(update={"storage_options": options})
        job = self.job.model_copy(update={"input": input_})
        known: dict[str, dict[str, Any]] = {}
        for record in self.earlier:
            kinds = record.get("chosen", {}).get("kinds", {})
            for kind, choice in kinds.items():
                if choice["measured"] or not known.get(kind, {}).get("measured"):
                    known[kind] = choice
        return Context(
            job=job,
            specs=self.specs,
            output=self.output,
            format=self.listing.format,
            schema=self.schema,
            where=self.where,
            rules=self.rules,
            known=known,
            large=self._bytes >= LARGE_INPUT,
            expected_tokens=self._bytes // TOKEN_BYTES // available_cores(),
            first=self.listing.sources[0] if self.listing.sources else None,
        )

    @property
    def contract(self) -> dict[str, Any]:
        """What every part of the output has in common."""
        return make_contract(self.job, self.specs, self.schema, self.where, self.rules)

    @property
    def revisions(self) -> Revisions:
        return Revisions(self.plan, self.output, self.schema)

    def planner(self, store_entries: bool) -> Planner:
        table = self.listing.table
        return Planner(
            self.plan,
            self.reader,
            self.job.input,
            self.unit_size(),
            store_entries,
            where=self.where,
            rules=self.rules,
            table=None if table is None else (table.versions.id, table.planned),
        )

    def unit_size(self, workers: int = 1, rate: float = 0.0) -> CutSize:
        """How large new units may be for so many workers of `rate` tokens/s each (0: unknown)."""
        return cut_size(self.job.runtime, self._bytes, workers, rate)

    def fresh(self) -> list[Source]:
        """Sources that no entry of the plan covers."""
        limit = self.job.input.limit
        if limit is not None and sum(unit.selected for unit in self.plan.units.values()) >= limit:
            return []
        return [s for s in self.listing.sources if s.id not in self.plan.sources]

    def may_have_rows(self) -> bool:
        """Whether there may be rows to score; a few small new sources are looked at."""
        if self.job.runtime.retry_quarantined or self.pending(self.plan.units.values()):
            return True
        fresh = self.fresh()
        if len(fresh) > FEW_SOURCES or sum(source.size for source in fresh) > SMALL_INPUT:
            return True
        for source in fresh:
            with suppress(SourceError):  # planning reports it
                cuts = planned_cuts(self.reader, self.job.input, source, self.unit_size())
                if next(cuts, None):
                    return True
        return False

    def pending(self, units: Iterable[Unit]) -> list[Unit]:
        """Those of the units that are not committed and whose sources are as planned."""
        return [unit for unit in units if unit.id not in self.committed and self.as_planned(unit)]

    def work(self) -> bool:
        """Whether something is to be scored."""
        return bool(self.pending(self.plan.units.values()) or self.fresh())

    def as_planned(self, unit: Unit) -> bool:
        """Whether all of a unit's sources are there, and what they were."""
        return all(self.listed.get(span.source.id) == span.source for span in unit.spans)

    def has_selected_rows(self, unit: Unit) -> bool:
        """Whether `input.where` does not leave out all rows of a committed unit."""
        if self.job.input.where is None:
            return True
        footer = self.output.footer(unit.part)
        return footer is not None and accounted(footer)[2] < footer["rows_in"]

    def tasks(self, units: Sequence[Unit]) -> Iterator[ReadTask]:
        """Pending units as read tasks: consecutive ones of one source go together."""
        task: list[Unit] = []
        for unit in self.pending(units):
            source = unit.spans[0].source
            joins = (
                task
                and not (unit.retry or task[0].retry)
                and len(unit.spans) == len(task[0].spans) == 1
                and task[0].spans[0].source == source
                and len(task) < self.reader.task_cuts(source)
            )
            if task and not joins:
                yield self._read_task(task)
                task = []
            task.append(unit)
        if task:
            yield self._read_task(task)

    def _read_task(self, units: Sequence[Unit]) -> ReadTask:
        streamed = len(units) > 1 and self.reader.streams(units[0].spans[0].source)
        return ReadTask(units, divisible=not streamed)


def _has_scored(record: dict[str, Any]) -> bool:
    figures: tuple[Any, ...] = (record.get("tokens"), record.get("scoring_seconds"))
    return all(number(figure) and figure > 0 for figure in figures)


def check_job(job: Job) -> Preflight:
    """Checks a job against its model, its input and its output. Raises JobError."""
    output = Output.of(job)
    if job.runtime.runner == "ray" and output.store.protocol == "memory":
        raise JobError(
            "output.path memory:// exists in one process only; use runtime.runner: inline"
        )
    listing = list_sources(job)
    if job.runtime.runner == "ray" and any(s.url.startswith("memory:") for s in listing.sources):
        raise JobError(
            "input.path memory:// exists in one process only; use runtime.runner: inline"
        )
    specs = {model: check_model(settings) for model, settings in job.each_model.items()}
    job = _with_prompt(job, specs)
    for spec in specs.values():
        check_task(job, spec)
    reader = reader_of(listing.format if listing.sources else "parquet")
    contract = output.contract()
    schema_of = schemas(job, reader)
    if ALL in job.input.carry:
        job = _with_all_columns(job, specs, listing, schema_of, contract)
    check_columns(job, specs)
    check_engines(job, specs)
    rules = rules_of(contract, output.path)
    plan = PlanLog(output.store, output.path, scoring_fingerprint(specs), listing.url)
    if contract is None:
        carried, where = probe(job, listing, schema_of)
        schema = output_schema(job, specs, carried)
    else:
        schema, where = stored_schema(contract), stored_where(contract)
        compare(contract, make_contract(job, specs, schema, where, rules), output.path)
        plan.refresh()
        if (table := listing.table) is not None:
            seen = [(each.version, each.done) for each in plan.tables.get(table.versions.id, [])]
            listing.sources = table.follow(plan.sources, seen)
    check_group(job, schema)
    committed = output.committed() if contract else {}
    _tell_of_raw(job, listing, rules)
    return Preflight(
        job=job,
        specs=specs,
        listing=listing,
        reader=reader,
        output=output,
        schema=schema,
        where=where,
        is_new=contract is None,
        plan=plan,
        committed=committed,
        rules=rules,
    )


def _with_all_columns(
    job: Job,
    specs: dict[str, ModelSpec],
    listing: Listing,
    schema_of: SchemaOf,
    contract: dict[str, Any] | None,
) -> Job:
    """The job with all columns carried: those of the first source, or those of its output."""
    if contract is None:
        made = [field.name for field in model_fields(specs, job.attention)]
        carry, renamed = carry_all(first_columns(listing, schema_of), job.input.carry, made)
        for old, new in renamed.items():
            log.info("column '%s' is carried as '%s': the output has one of that name", old, new)
    else:
        stored = contract.get("input", {})
        known: dict[str, str] = stored.get("carry", {})
        asked = {new: old for old, new in map(carried, job.input.carry) if old != ALL}
        carry = [ALL, *(f"{old}:{new}" for new, old in {**known, **asked}.items())]
    return job.model_copy(update={"input": job.input.model_copy(update={"carry": carry})})


def _with_prompt(job: Job, specs: dict[str, ModelSpec]) -> Job:
    """The job with the prompt that an embedding model has by default, unless it has a prefix.

    Raises JobError if several models have not the same one.
    """
    prompts = {spec.modules.prompt if spec.modules else None for spec in specs.values()}
    if prompts == {None} or "prefix" in job.input.model_fields_set:
        return job
    if len(prompts) > 1:
        each = ", ".join(repr(prompt) for prompt in prompts if prompt is not None)
        raise JobError(
            f"models: some begin each text with a prompt of their own ({each}), and all of a job "
            "score the same text; set input.prefix, or score with these models in other jobs"
        )
    (prompt,) = prompts
    assert prompt is not None
    log.info("each text begins with the model's own prompt %r; input.prefix sets another", prompt)
    return job.model_copy(update={"input": job.input.model_copy(update={"prefix": prompt})})


def _tell_of_raw(job: Job, listing: Listing, rules: dict[str, int]) -> None:
    """Logs if an old output keeps folder values as the folders are named."""
    if rules.get("hive", 0) >= 1:
        return
    carried = set(job.input.carried.values())
    for source in listing.sources:
        for name, value in partitions(source).items():
            if name in carried and ("%" in value or decoded(value) is None):
                log.info(
                    "%s was started when folder values were not decoded, and keeps them as they "
                    "are, such as %s=%s; a new output has them decoded",
                    job.output.path,
                    name,
                    value,
                )
                return
