"""Copies an output for other programs, so that each row arrives once.

Again, it adds what is new; killed, it goes on. Parts stay the record of truth.
"""

import os
from dataclasses import dataclass
from typing import Any

from bertbatch.errors import JobError
from bertbatch.exports.batches import check_not_withdrawn, output_id
from bertbatch.exports.encode import ENCODERS, ENDINGS, encoder
from bertbatch.exports.folder import Folder
from bertbatch.exports.input_columns import InputColumns
from bertbatch.exports.partitions import check_partitions
from bertbatch.exports.rows import ExportedRows
from bertbatch.exports.single_file import SingleFile
from bertbatch.exports.tables import into_table
from bertbatch.job.schema import Job
from bertbatch.output.folder import Output, open_output
from bertbatch.plan.log import stored_plan
from bertbatch.plan.standing import standing
from bertbatch.registry import TABLES
from bertbatch.runtime.preflight import check_job
from bertbatch.storage import stores

# How files of other formats are named, which nobody would want for a folder.
FOREIGN = (
    *(".orc", ".avro", ".arrow", ".feather", ".json", ".tsv", ".txt", ".gz", ".zst", ".zip"),
    *(".xlsx", ".xls", ".html", ".xml", ".yaml", ".yml"),
)


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    output: str
    target: str
    format: str | None = None  # by the target's name, or Parquet
    partition_by: tuple[str, ...] = ()
    with_input: bool = False
    class_columns: bool = False
    job: Job | None = None  # where the input is, if the last run's record does not tell


@dataclass
class Exported:
    """What was done, and what the target holds now."""

    target: str
    format: str
    rows_added: int
    rows: int
    rows_quarantined: int
    rows_left_out: int
    lack: str  # of the output, as a sentence goes on; empty if it is complete


def export(request: Request) -> Exported:
    """Copies what is committed. Raises JobError if the target is not this export's."""
    output = open_output(request.output)
    contract = output.existing_contract()
    plan = stored_plan(output, contract)
    iceberg = request.target.startswith("iceberg://")
    store, path = stores.connect("memory://" if iceberg else request.target)
    format, single = ("iceberg", False) if iceberg else _format(request, path)
    _check_outside(output, store, path)
    inputs = None
    if request.with_input:
        job = request.job or _last_job(output)
        here = job.output.model_copy(update={"path": request.output})
        preflight = check_job(job.model_copy(update={"output": here}))
        plan = preflight.plan
        inputs = InputColumns.of(preflight)
    rows = ExportedRows(output, contract, plan, request.class_columns or format == "csv", inputs)
    if wrong := check_partitions(request.partition_by, rows.schema):
        raise JobError(f"--partition-by: {wrong}")
    committed = output.committed()
    units = [unit for unit in plan.units.values() if unit.id in committed]
    parts = [unit.part for unit in sorted(units, key=lambda unit: unit.part)]
    settings = {
        "format": format,
        "columns": [f"{each.name}: {each.type}" for each in rows.schema],
        "partition_by": list(request.partition_by),
    }
    if format in TABLES:
        added = _into_table(request, format, rows, parts)
    elif single:
        if request.partition_by:
            raise JobError("--partition-by makes a folder of files: name a folder as TARGET")
        written = SingleFile(store, path, format).write(parts, rows, settings)
        added = 0 if written is None else written
    else:
        folder = Folder(store, path, f".{format}", encoder(format), request.partition_by)
        added = _into_folder(folder, rows, parts, settings)
    quarantined = output.quarantined(units)
    left_out = output.left_out(units) if contract.get("input", {}).get("where") else 0
    total = sum(unit.new_rows for unit in units) - quarantined - left_out
    return Exported(
        target=request.target,
        format=format,
        rows_added=added,
        rows=total,
        rows_quarantined=quarantined,
        rows_left_out=left_out,
        lack=standing(output, plan, committed).lack,
    )


def _into_folder(
    folder: Folder, rows: ExportedRows, parts: list[str], settings: dict[str, Any]
) -> int:
    """Writes the batches that the folder lacks, old ones and then new ones."""
    batches = folder.begin(rows, settings)
    known = batches.all()
    check_not_withdrawn(rows, known)
    added = sum(folder.write(i, batch, rows) for i, batch in enumerate(known, 1))
    while (batch := batches.next(known, parts, rows.plan)) is not None:
        known.append(batch)
        added += folder.write(len(known), batch, rows)
    return added


def _into_table(request: Request, format: str, rows: ExportedRows, parts: list[str]) -> int:
    kind = TABLES[format]
    try:
        table = kind.load()
    except ImportError as error:
        raise JobError(
            f"--format {format} needs an extra: pip install 'bertbatch[{kind.extra}]'"
        ) from error
    output = output_id(rows.output)
    return into_table(
        lambda: table(request.target, output, rows.schema, request.partition_by), rows, parts
    )


def _format(request: Request, path: str) -> tuple[str, bool]:
    """The format, and whether the target is one file."""
    dot, ending = path.rpartition("/")[2].lower().rpartition(".")[1:]
    named = ENDINGS.get(f".{ending}") if dot else None
    if dot and f".{ending}" in FOREIGN:
        raise JobError(
            f"{request.target}: an export writes .parquet, .csv or .jsonl files, or folders of them"
        )
    formats = ("parquet", *ENCODERS, *TABLES)
    if request.format is not None and request.format not in formats:
        raise JobError(f"--format {request.format}: there are {', '.join(formats)}")
    if request.format == "iceberg":
        raise JobError("--format iceberg: name the table as iceberg://CATALOG/NAMESPACE.TABLE")
    if request.format is not None and named and named != request.format:
        raise JobError(
            f"{request.target} is named as a .{ending} file; name a folder for --format "
            f"{request.format}, or another file"
        )
    return request.format or named or "parquet", named is not None


def _check_outside(output: Output, store: stores.Store, path: str) -> None:
    """Raises JobError if the target lies in the output, or the output in it."""
    if store.protocol != output.store.protocol:
        return
    ours, theirs = output.path, path
    if store.is_local:
        ours, theirs = os.path.realpath(ours), os.path.realpath(theirs)
    if f"{theirs}/".startswith(f"{ours}/") or f"{ours}/".startswith(f"{theirs}/"):
        raise JobError(f"TARGET {path} and OUTPUT {output.path} lie in one another; name another")


def _last_job(output: Output) -> Job:
    """The job of the last run. Raises JobError if its record does not tell."""
    for record in reversed(output.runs()):
        if isinstance(record.get("job"), dict):
            return Job.build(record["job"], "the last run's record")
    raise JobError(
        "--with-input reads the input again, and no run's record tells where it is: name the job "
        "file with --job"
    )
