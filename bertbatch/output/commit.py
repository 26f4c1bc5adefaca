"""The commit protocol: side files first, then the whole part in one conditional create.

The part is the commit record. Its footer names its side files and the attempt that wrote
it; a side file that no committed part names is nobody's. Whatever goes wrong with the
create, the part's footer tells who committed the unit.
"""

import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bertbatch.output.folder import FOOTER_KEY, Output, to_json
from bertbatch.storage.retry import retry
from bertbatch.units import Unit


@dataclass(frozen=True)
class Committed:
    """How a commit ended: by this attempt, or because another attempt had been first."""

    ours: bool
    footer: dict[str, Any]


def commit(
    output: Output,
    unit: Unit,
    predictions: pa.Table,
    quarantine: pa.Table,
    facts: dict[str, Any],
    attention: pa.Table | None = None,
) -> Committed:
    """Commits a unit once, whoever else is trying.

    `facts` go to the footer with the row counts, `attention` are its cells of statistics.
    Raises ValueError if rows are missing or
    doubled, and the store's error if it fails for good; then nothing is committed, or a
    later attempt will find that it was.
    """
    if predictions.num_rows + quarantine.num_rows != unit.rows:
        raise ValueError(
            f"unit {unit.id}: {unit.rows} rows planned, {predictions.num_rows} scored and "
            f"{quarantine.num_rows} quarantined"
        )
    attempt = uuid.uuid4().hex
    side: dict[str, str] = {}
    digests: dict[str, str] = {}
    for name, table in (("quarantine", quarantine), ("attention", attention)):
        if table is not None and table.num_rows:
            side[name] = f"_bertbatch/{name}/{unit.id}-{attempt}.arrow"
            data = encode_side(table)
            digests[name] = sha256(data).hexdigest()
            retry(partial(_create_side, output, side[name], data))
    footer = {
        "unit": unit.id,
        "attempt": attempt,
        "sources": unit.fingerprints,
        "rows_in": unit.rows,
        "rows_scored": predictions.num_rows,
        "rows_quarantined": quarantine.num_rows,
        "side_files": side,
        "digests": digests,
        **facts,
    }
    data = encode_part(predictions, footer)
    result = retry(lambda: _put(output, unit.part, data, footer))
    if not result.ours:
        for path in side.values():
            with suppress(OSError):  # nobody's file does no harm
                output.store.delete(output.at(path))
    return result


def void(output: Output, unit: Unit, schema: pa.Schema) -> None:
    """Puts a part without rows in a unit's place, so that nobody can commit the unit later.

    Whatever was there is replaced in one step, so that there is no moment for a late commit.
    """
    found = _footer(output, unit.part)
    if found is not None and found.get("void"):
        return
    footer = {
        "unit": unit.id,
        "attempt": uuid.uuid4().hex,
        "void": True,
        "rows_in": 0,
        "rows_scored": 0,
        "rows_quarantined": 0,
        "side_files": {},
    }
    data = encode_part(schema.empty_table(), footer)
    retry(lambda: output.store.replace(output.at(unit.part), data))
    for path in (found or {}).get("side_files", {}).values():
        with suppress(OSError):  # nobody's file does no harm
            output.store.delete(output.at(path))


def _put(output: Output, part: str, data: bytes, footer: dict[str, Any]) -> Committed:
    """The conditional create. After any error of it the part's footer tells what happened."""
    try:
        output.store.create(output.at(part), data)
        return Committed(True, footer)
    except Exception:
        found = _footer(output, part)
        if found is None:
            raise
    # With our attempt's id it was created after all, and only the reply was lost.
    return Committed(found["attempt"] == footer["attempt"], found)


def encode_part(predictions: pa.Table, footer: dict[str, Any]) -> bytes:
    """The whole Parquet file, in memory, so that it can be put in one step."""
    sink = pa.BufferOutputStream()
    metadata = {**(predictions.schema.metadata or {}), FOOTER_KEY: to_json(footer)}
    table = predictions.replace_schema_metadata(metadata)
    pq.write_table(table, sink, compression="zstd", row_group_size=65536, write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def encode_side(table: pa.Table) -> bytes:
    """A whole Arrow file, in memory."""
    # An Arrow file cannot change a dictionary between batches: plain values instead.
    plain = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in table.schema
    ]
    table = table.cast(pa.schema(plain)).unify_dictionaries()  # those inside of lists and structs
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _create_side(output: Output, path: str, data: bytes) -> None:
    # The name is this attempt's alone: if it exists, an earlier try's reply was lost.
    with suppress(FileExistsError):
        output.store.create(output.at(path), data)


def _footer(output: Output, part: str) -> dict[str, Any] | None:
    """The part's footer, or None if there is none or it cannot be read now."""
    try:
        return output.footer(part)
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
