"""The format of a part: a Parquet file with a footer that names its side files.

Which rows a part has is decided in `plan/`, its columns by the contract, and how it gets into the
output by `commit.py`. The name of a part is `Unit.part`.
"""

import json
import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from bertbatch.output.records import count, fits, to_json

FOOTER_KEY = b"bertbatch"
FOOTER_TYPES = {
    **dict.fromkeys(("unit", "attempt"), str),
    **dict.fromkeys(("rows_in", "rows_scored", "rows_quarantined"), int),
    "side_files": dict,
}
SIDE_FILES = ("quarantine", "attention")  # kinds, each with a folder of its own


def encode_part(rows: pa.Table, footer: dict[str, Any]) -> bytes:
    """The whole Parquet file, in memory, so that it can be put in one step."""
    sink = pa.BufferOutputStream()
    metadata = {**(rows.schema.metadata or {}), FOOTER_KEY: to_json(footer)}
    table = rows.replace_schema_metadata(metadata)
    pq.write_table(table, sink, compression="zstd", row_group_size=65536, write_page_checksum=True)
    return cast(bytes, sink.getvalue().to_pybytes())


def decode_part(
    file: BinaryIO, columns: Sequence[str] | None = None
) -> tuple[dict[str, Any], pa.Table]:
    """A part's footer and rows, of all columns or some. Pages are checked by their checksums.

    Raises OSError, KeyError or ValueError if it cannot be read.
    """
    content = pq.ParquetFile(file, page_checksum_verification=True)
    return _footer(content.metadata.metadata), content.read(columns)


def decode_footer(file: BinaryIO) -> dict[str, Any]:
    """A part's footer alone. Raises OSError, KeyError or ValueError if it cannot be read."""
    return _footer(pq.read_metadata(file).metadata)


def accounted(footer: dict[str, Any]) -> tuple[int, int, int]:
    """How many of a unit's rows were scored, went to quarantine, and were left out."""
    left_out = int(footer.get("rows_left_out", 0))
    return int(footer["rows_scored"]), int(footer["rows_quarantined"]), left_out


def is_tombstone(footer: dict[str, Any]) -> bool:
    """Whether a part without rows has been put in the place of a withdrawn unit."""
    return bool(footer.get("void"))


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
    return cast(bytes, sink.getvalue().to_pybytes())


def decode_side(data: bytes) -> pa.Table:
    """A side file's rows. Raises ArrowInvalid if it is no Arrow file."""
    return pa.ipc.open_file(data).read_all()


def side_digest(data: bytes) -> str:
    """What a footer says of a side file's content: its SHA-256, in hex."""
    return sha256(data).hexdigest()


def side_path(kind: str, unit: str, attempt: str) -> str:
    """Where an attempt to commit a unit writes a side file; no other attempt has this path."""
    return f"_bertbatch/{kind}/{unit}-{attempt}.arrow"


def unit_of_side(path: str) -> str:
    """The id of the unit that a side file was written for, by its name or path."""
    return path.rpartition("/")[2].partition("-")[0]


def is_part(name: str) -> bool:
    """Whether a file of an output's folder has the name of a part."""
    return re.fullmatch(r"part-.*-[0-9a-f]{20}\.parquet", name) is not None


def unit_of_part(name: str) -> str:
    """The id of the unit that a part is of, by its name."""
    return name.removesuffix(".parquet").rpartition("-")[2]


def _footer(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """Raises ValueError and others if there is no footer, or a key has another type.

    The side files that a footer names are read and deleted: a footer that another program wrote
    must not lead to files elsewhere.
    """
    footer = json.loads(metadata[FOOTER_KEY])
    if not isinstance(footer, dict):
        raise ValueError("its footer is no object")
    for key, kind in FOOTER_TYPES.items():
        if not isinstance(footer.get(key), kind):
            raise ValueError(f"its footer's {key} is {footer.get(key)!r}")
    if not isinstance(footer.get("rows_left_out", 0), int):
        raise ValueError(f"its footer's rows_left_out is {footer['rows_left_out']!r}")
    if not fits(footer.get("labels", {}), {"*": count}):
        raise ValueError(f"its footer's labels are {footer['labels']!r}")
    for path in footer["side_files"].values():
        if not re.fullmatch(rf"_bertbatch/({'|'.join(SIDE_FILES)})/[\w-]+\.arrow", str(path)):
            raise ValueError(f"names {path!r}, which is no side file")
    return footer
