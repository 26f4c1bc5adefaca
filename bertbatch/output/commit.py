"""The commit protocol: side files first, then the whole part in one conditional create.

The part is the commit record. Its footer names its side files and the attempt that wrote it; a
side file that no committed part names is orphaned. Whatever goes wrong with the create, the part's
footer shows which attempt committed the unit. The format of parts is in `part.py`.
"""

import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from bertbatch.output.folder import Output
from bertbatch.output.part import encode_part, encode_side, is_tombstone, side_digest, side_path
from bertbatch.storage.retry import retry
from bertbatch.units import Unit


@dataclass(frozen=True)
class Committed:
    """How a commit ended: with this attempt's part, or with that of an earlier attempt."""

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
    """Commits a unit once, also while other attempts try the same.

    `facts` go to the footer with the row counts, and have `rows_left_out` if there are such;
    `attention` holds the unit's aggregated statistics. Raises ValueError if the row counts do not
    add up, and the store's error if it fails for good: then nothing is committed, or a later
    attempt will find that it was.
    """
    left_out = facts.get("rows_left_out", 0)
    if predictions.num_rows + quarantine.num_rows + left_out != unit.rows:
        raise ValueError(
            f"unit {unit.id}: {unit.rows} rows planned, {predictions.num_rows} scored, "
            f"{quarantine.num_rows} quarantined and {left_out} left out"
        )
    attempt = uuid.uuid4().hex
    side: dict[str, str] = {}
    digests: dict[str, str] = {}
    for name, table in (("quarantine", quarantine), ("attention", attention)):
        if table is not None and table.num_rows:
            side[name] = side_path(name, unit.id, attempt)
            data = encode_side(table)
            digests[name] = side_digest(data)
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
    result = _put(output, unit.part, encode_part(predictions, footer), footer)
    if not result.ours:
        for path in side.values():
            with suppress(OSError):  # an orphaned file does no damage
                output.store.delete(output.at(path))
    return result


def write_tombstone(output: Output, unit: Unit, schema: pa.Schema) -> None:
    """Puts a part without rows in a withdrawn unit's place, so that it cannot be committed later.

    An existing part is replaced in one step, which leaves no moment for a late commit.
    """
    found = _footer(output, unit.part)
    if found is not None and is_tombstone(found):
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
        with suppress(OSError):  # an orphaned file does no damage
            output.store.delete(output.at(path))


def _put(output: Output, part: str, data: bytes, footer: dict[str, Any]) -> Committed:
    """The conditional create. After any error, the part's footer shows what happened."""

    def create() -> Committed:
        try:
            output.store.create(output.at(part), data)
            return Committed(True, footer)
        except Exception:
            found = _footer(output, part)
            if found is None:
                raise
        # With our attempt's id it was created after all, and only the reply was lost.
        return Committed(found["attempt"] == footer["attempt"], found)

    return retry(create)


def _create_side(output: Output, path: str, data: bytes) -> None:
    # The name is this attempt's alone: if it exists, an earlier try's reply was lost.
    with suppress(FileExistsError):
        output.store.create(output.at(path), data)


def _footer(output: Output, part: str) -> dict[str, Any] | None:
    """The part's footer, or None if there is none or it cannot be read now."""
    try:
        return output.footer(part)
    except OSError:
        return None
