"""What writers do: a run in the order of runtime/run.py, or a commit left behind by a dead one."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pyarrow as pa

from bertbatch.job.input import Input
from bertbatch.job.schema import Runtime
from bertbatch.output import commit
from bertbatch.output.folder import Output
from bertbatch.plan.log import PlanLog
from bertbatch.plan.planner import Planner
from bertbatch.plan.revisions import Revisions
from bertbatch.plan.unit_size import cut_size
from bertbatch.units import Cut, Source, Unit, digest

SCHEMA = pa.schema([("source", pa.string()), ("row", pa.int64())])
BAD_ROW = 1  # the number of the row that goes to quarantine, in each source that has it


@dataclass(frozen=True)
class Given:
    """One input file: its cuts as (rows, bytes), and which version of it."""

    cuts: tuple[tuple[int, int], ...]
    stamp: str = "1"


Inputs = dict[str, Given]


class Cutter:
    """Stands for the readers: the cuts are given."""

    def __init__(self, inputs: Inputs):
        self._inputs = inputs

    def cut(self, source: Source, size: Any, options: Any, needed: Any = ()) -> Iterator[Cut]:
        first = 0
        for rows, bytes_ in self._inputs[source.id].cuts:
            yield Cut(first, rows, first, first + rows, bytes_)
            first += rows


def listed(inputs: Inputs) -> list[Source]:
    return [Source(id_, id_, 1, given.stamp) for id_, given in sorted(inputs.items())]


def run(
    store: Any,
    inputs: Inputs,
    unreadable: frozenset[str] = frozenset(),
    mended: frozenset[str] = frozenset(),
    retry: bool = False,
    cured: bool = False,
) -> None:
    """A run, as runtime/run.py orders it. It cannot read `unreadable`; `mended` have failed before.

    With `retry` it scores what is in quarantine again; if it is `cured`, without failing.
    """
    output = Output(store, "out")
    plan = PlanLog(store, "out", "model", lambda id_: id_ if id_ in inputs else "")
    plan.refresh()
    revisions = Revisions(plan, output, SCHEMA)
    committed = output.committed()
    sources = listed(inputs)
    planner = Planner(plan, Cutter(inputs), Input(path="in"), cut_size(Runtime(), 1 << 30))
    changed = {s.id for s in sources if plan.sources.get(s.id, s) != s}
    if changed & mended:
        revisions.withdraw(changed & mended)
    listing = {s.id: s for s in sources}
    as_planned = partial(is_as_planned, listing)
    pending = [u for u in plan.units.values() if u.id not in committed and as_planned(u)]
    failed = False
    new = any(s.id not in plan.sources for s in sources)
    if pending or new or (retry and any(revisions.retryable_rows(listing))):
        output.clear_success()
        if retry:
            revisions.plan_retry(listing)
        todo: Iterator[list[Unit]] | None = tasks(revisions, planner, sources, committed)
        while todo:
            bad = []
            for unit in (unit for units in todo for unit in units):
                if {span.source.id for span in unit.spans} & unreadable:
                    bad.append(unit)
                elif as_planned(unit):
                    commit_unit(output, unit, cured)
            failed = failed or bool(bad)
            todo = salvaged(revisions, bad, unreadable) if bad else None

    def judge() -> dict[str, Any] | None:
        there = output.committed()
        done = [unit for unit in plan.units.values() if unit.id in there]
        missing = [unit for unit in plan.units.values() if unit.id not in there]
        if failed or not all(unit.retry and not as_planned(unit) for unit in missing):
            return None
        plan_id, success = digest(sorted(plan.units)), output.success()
        if success is not None and success["plan"] == plan_id:
            return None
        rows = sum(unit.new_rows for unit in done)
        quarantined = output.quarantined(done)
        return {"rows_in": rows, "rows_quarantined": quarantined, "plan": plan_id}

    revisions.write_success_if_complete(judge)


def is_as_planned(listing: dict[str, Source], unit: Unit) -> bool:
    return all(listing.get(span.source.id) == span.source for span in unit.spans)


def tasks(
    revisions: Revisions, planner: Planner, sources: list[Source], committed: Any
) -> Iterator[list[Unit]]:
    plan, output = revisions.plan, revisions.output
    revisions.write_tombstones()
    yield [unit for unit in plan.units.values() if unit.id not in committed]
    for units in planner.extend(sources):
        output.clear_success()
        revisions.write_tombstones()
        yield units
    while units := plan.refresh():
        revisions.write_tombstones()
        yield units


def salvaged(
    revisions: Revisions, bad: list[Unit], unreadable: frozenset[str]
) -> Iterator[list[Unit]]:
    for unit in bad:
        if unit.retry:
            continue
        rest = [span for span in unit.spans if span.source.id not in unreadable]
        if 0 < len(rest) < len(unit.spans):
            yield revisions.replace_unit(unit, rest)


def commit_unit(output: Output, unit: Unit, cured: bool = False) -> None:
    rows = unit.retry.rows if unit.retry else places(unit)
    good = [pair for pair in rows if pair[1] != BAD_ROW or cured]
    bad = [pair for pair in rows if pair not in good]
    for tries in (1, 2, 3):  # as the pipeline does
        try:
            commit.commit(output, unit, table(*good), table(*bad), {})
            return
        except Exception as error:
            if tries == 3 or isinstance(error, OSError):
                raise


def places(unit: Unit) -> list[tuple[str, int]]:
    """All rows of its spans."""
    return [
        (span.source.id, row)
        for span in unit.spans
        for row in range(span.cut.first_row, span.cut.first_row + span.cut.rows)
    ]


@cache
def table(*rows: tuple[str, int]) -> pa.Table:
    return pa.table([[s for s, _ in rows], [r for _, r in rows]], schema=SCHEMA)


def pairs(rows: pa.Table) -> list[tuple[str, int]]:
    return list(zip(rows["source"].to_pylist(), rows["row"].to_pylist(), strict=True))


def left_behind(store: Any, units: list[Unit], cured: bool = False) -> None:
    """Workers that still commit what they were given, whatever has become of their run."""
    for unit in units:
        commit_unit(Output(store, "out"), unit, cured)
