"""Checks every promise against the files: each row exactly once, nothing damaged.

Everything is read and compared with the plan, page checksums and side files' digests
included. Nothing is trusted that the program itself wrote down as a total.
"""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertbatch.attention.aggregates import ALL
from bertbatch.job.models import column_of
from bertbatch.output.contract import stored_schema
from bertbatch.output.folder import Output, failed_in
from bertbatch.output.lease import Lease
from bertbatch.output.part import (
    SIDE_FILES,
    accounted,
    decode_side,
    is_tombstone,
    side_digest,
    unit_of_side,
)
from bertbatch.plan.log import stored_plan
from bertbatch.units import Unit

MEAN_TOLERANCE = 1e-4  # of a statistic's mean over a unit, from its rows in float32


@dataclass
class Verdict:
    """What was found. `problems` say what and where; `orphans` are files that no part names."""

    units: int = 0
    parts: int = 0
    pending: int = 0  # planned units without a part
    rows_planned: int = 0
    rows_scored: int = 0
    rows_quarantined: int = 0
    rows_left_out: int = 0
    problems: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    cleaned: int = 0
    rescored: int = 0
    same_bits: tuple[int, int] | None = None  # of how many rows of a unit, scored as it was
    other_kinds: list[str] = field(default_factory=list)  # that scored, and are not here
    failed_sources: dict[str, str] = field(default_factory=dict)  # of the last run, with reasons

    @property
    def right(self) -> bool:
        return not self.problems


@dataclass
class _Part:
    """What checking one part came to."""

    unit: str
    scored: int = 0
    quarantined: int = 0
    left_out: int = 0
    bad: set[tuple[str, int]] = field(default_factory=set)  # the rows in quarantine
    named: list[str] | None = None  # side files, if it can be read
    problems: list[str] = field(default_factory=list)


def verify(output: Output, clean: bool = False) -> Verdict:
    """Checks an output; with `clean`, deletes what no part names.

    Raises JobError if there is none, or if a run is at work on it that cleaning would disturb.
    A unit without a part is a problem only if `_SUCCESS.json` says that all is there.
    """
    contract = output.existing_contract()
    # Before the parts: a file that is written later is a run's that is at work.
    side_files = _side_files(output)
    plan = stored_plan(output, contract)
    schema = stored_schema(contract)
    committed = output.committed()
    rows = sum(unit.new_rows for unit in plan.units.values())
    last = output.runs(1)
    verdict = Verdict(
        units=len(plan.units), rows_planned=rows, failed_sources=failed_in(last[-1]) if last else {}
    )
    units = {**plan.units, **plan.withdrawn}
    again = [unit for id_ in committed if (unit := plan.units.get(id_)) and unit.retry]
    parents = {unit.retry.unit: unit for unit in again if unit.retry}
    named: set[str] = set()
    unread = set()  # units whose parts may name any side file that is called after them
    for id_, name in sorted(committed.items()):
        if id_ not in units:
            verdict.problems.append(f"{name}: no unit of the plan has this part")
            unread.add(id_)

    def check(unit: Unit) -> _Part:
        return _check(output, schema, unit, unit.id in plan.withdrawn)

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(check, [units[id_] for id_ in sorted(committed) if id_ in units]):
            verdict.parts += 1
            verdict.rows_scored += found.scored
            verdict.rows_quarantined += found.quarantined
            verdict.rows_left_out += found.left_out
            verdict.problems += found.problems
            if found.named is None:
                unread.add(found.unit)
            named.update(found.named or ())
            if (other := parents.get(found.unit)) and other.retry:
                foreign = set(other.retry.rows) - found.bad
                if foreign:
                    verdict.problems.append(
                        f"{other.part}: scores {len(foreign)} rows again that {found.unit} has not "
                        "in quarantine"
                    )
    verdict.rows_quarantined -= sum(unit.rows for unit in again)
    # Rows to score again stay in quarantine until they are: nothing is missing then.
    missing = [u for u in plan.units.values() if u.id not in committed and not u.retry]
    verdict.pending = len(missing)
    verdict.problems += _check_success(output, verdict, missing)
    orphans = (path for path in side_files - named if unit_of_side(path) not in unread)
    verdict.orphans = sorted(orphans)
    if clean and verdict.orphans:
        _clean(output, verdict, committed)
    return verdict


def _clean(output: Output, verdict: Verdict, seen: dict[str, str]) -> None:
    """Deletes orphans, while no run can begin, and but for those of parts committed meanwhile."""
    lease = Lease(output, f"verify-{uuid.uuid4().hex[:6]}", "fail")
    lease.wait()
    lease.take()
    try:
        fresh = [part for id_, part in output.committed().items() if id_ not in seen]
        for part in fresh:
            footer = output.footer(part) or {"side_files": {}}
            verdict.orphans = sorted({*verdict.orphans} - {*footer["side_files"].values()})
        for path in verdict.orphans:
            output.store.delete(output.at(path))
        verdict.cleaned, verdict.orphans = len(verdict.orphans), []
    finally:
        lease.release()


def _check(output: Output, schema: pa.Schema, unit: Unit, void: bool) -> _Part:
    found = _Part(unit.id)

    def wrong(what: str) -> None:
        found.problems.append(f"{unit.part}: {what}")

    try:
        footer, table = output.part(unit.part)
    except OSError as error:
        wrong(f"cannot be read: {error}")
        return found
    found.named = list(footer["side_files"].values())
    found.scored, found.quarantined, found.left_out = accounted(footer)
    if footer["unit"] != unit.id:
        wrong(f"says that it is of unit {footer['unit']}")
    if not table.schema.equals(schema):
        wrong("has other columns than the output")
    if is_tombstone(footer) != void:
        wrong("has rows although its unit was withdrawn" if void else "is void, its unit is not")
    if void:
        if table.num_rows:
            wrong(f"is void and has {table.num_rows} rows")
        return found
    if footer.get("sources") != unit.fingerprints:
        wrong("names other sources or fingerprints than the plan")
    counts = (found.scored, found.quarantined, found.left_out)
    if footer["rows_in"] != unit.rows or sum(counts) != unit.rows:
        wrong(f"{unit.rows} rows planned, {' + '.join(map(str, counts))} accounted for")
    if table.num_rows != found.scored:
        wrong(f"says {found.scored} rows and has {table.num_rows}")
    sides: dict[str, pa.Table] = {}
    for kind, path in footer["side_files"].items():
        try:
            data = output.store.read(output.at(path))
            if side_digest(data) != footer.get("digests", {}).get(kind):
                wrong(f"{path} is not what was written")
            sides[kind] = decode_side(data)
        except (OSError, pa.ArrowException) as error:
            wrong(f"{path}, which it names: {error}")
    bad = sides.get("quarantine")
    held = bad.num_rows if bad is not None else 0
    if bad is not None:
        found.bad = set(zip(bad["source"].to_pylist(), bad["row"].to_pylist(), strict=True))
    if held != found.quarantined:
        wrong(f"{found.quarantined} rows in quarantine, {held} in their file")
    found.problems += [
        f"{unit.part}: {what}" for what in _check_rows(unit, table, bad, found.left_out)
    ]
    if (aggregates := sides.get("attention")) is not None:
        found.problems += [f"{unit.part}: {what}" for what in _check_aggregates(table, aggregates)]
    return found


def _check_rows(unit: Unit, table: pa.Table, bad: pa.Table | None, left_out: int) -> Iterator[str]:
    """Each planned row is there exactly once, scored or in quarantine, but for those left out."""
    there = [table.select(["source", "row"])]
    if bad is not None:
        there.append(bad.select(["source", "row"]))
    rows: dict[str, list[np.ndarray]] = {}
    for each in there:
        sources = pc.cast(each["source"], pa.string())
        for source in pc.unique(sources).to_pylist():
            of_source = each.filter(pc.equal(sources, source))["row"].to_numpy()
            rows.setdefault(source, []).append(of_source)
    for span in unit.spans:
        found = np.sort(np.concatenate(rows.pop(span.source.id, [np.zeros(0, np.int64)])))
        planned = np.arange(span.cut.first_row, span.cut.first_row + span.cut.rows)
        if unit.retry:
            planned = np.array([n for id_, n in unit.retry.rows if id_ == span.source.id], np.int64)
        if np.array_equal(found, planned):
            continue
        lost = np.setdiff1d(planned, found)
        if left_out:  # parts count them, and do not say which they are
            left_out, lost = max(left_out - len(lost), 0), lost[left_out:]
        values, counts = np.unique(found, return_counts=True)
        twice, foreign = values[counts > 1], np.setdiff1d(found, planned)
        for what, which in (("lost", lost), ("doubled", twice), ("not of this unit", foreign)):
            if len(which):
                yield f"{len(which)} rows of {span.source.id} {what}, the first is {which[0]}"
    for source in rows:
        yield f"has rows of {source}, which is not of its unit"


def _check_aggregates(table: pa.Table, aggregates: pa.Table) -> Iterator[str]:
    """A unit's aggregates over all rows are those of its rows, where these are there."""
    everything = aggregates.filter(pc.equal(aggregates["group"], ALL))
    for cell in everything.to_pylist():
        name = column_of(cell.get("model", ""), f"attn_{cell['statistic']}")
        if name not in table.column_names:
            continue
        column = table[name].combine_chunks().drop_null()
        if len(column) != cell["rows"]:
            yield f"statistics of {cell['rows']} rows, {len(column)} have {name}"
        elif len(column):
            values = column.flatten().to_numpy().reshape(len(column), -1).astype(np.float64)
            mean = np.asarray(cell["mean"], np.float64)
            off = np.abs(values.mean(0) - mean)
            if (off > MEAN_TOLERANCE * np.maximum(np.abs(mean), 1e-3)).any():
                yield f"the mean of {name} is not that of its rows: {off.max():.3g} off"


def _check_success(output: Output, verdict: Verdict, missing: list[Unit]) -> list[str]:
    success = output.success()
    if success is None:
        return []
    problems = [f"_SUCCESS.json is there, but {unit.part} is not" for unit in missing]
    if verdict.problems:  # what cannot be read is not counted
        return problems
    for name in ("rows_scored", "rows_quarantined", "rows_left_out"):
        value = getattr(verdict, name)
        if success.get(name, 0) != value:
            problems.append(f"_SUCCESS.json: {name} is {success.get(name)}, the parts have {value}")
    return problems


def _side_files(output: Output) -> set[str]:
    """Side files, and what a process that died while creating a file has left."""
    store = output.store
    paths = {
        f"_bertbatch/{folder}/{name}"
        for folder in SIDE_FILES
        for name in store.names(output.at("_bertbatch", folder))
    }
    for folder in ("", *(f"_bertbatch/{f}" for f in (*SIDE_FILES, "plan", "runs", "texts"))):
        for name in store.temporary(output.at(folder) if folder else output.path):
            paths.add(f"{folder}/{name}" if folder else name)
    return paths
