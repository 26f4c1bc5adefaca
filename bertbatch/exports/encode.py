"""Rows as the bytes of a file: Parquet, CSV or JSONL."""

import base64
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq


def to_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return cast(bytes, sink.getvalue().to_pybytes())


def to_csv(table: pa.Table, header: bool = True) -> bytes:
    """An unquoted empty field is null, `""` is an empty string. Lists and structs are JSON."""
    columns = {name: _flat(table[name]) for name in table.column_names}
    sink = pa.BufferOutputStream()
    options = pa.csv.WriteOptions(include_header=header, quoting_style="needed")
    pa.csv.write_csv(pa.table(columns), sink, options)
    return cast(bytes, sink.getvalue().to_pybytes())


def to_jsonl(table: pa.Table, header: bool = True) -> bytes:
    """An object a line. Times are ISO 8601, bytes are base64, what is not a number is null."""
    return _encoder.encode_lines(table.to_pylist())


def _text(value: Any) -> str:
    """Times that are too fine for Python's, as pandas has them."""
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)


_encoder = msgspec.json.Encoder(enc_hook=_text)
ENCODERS: dict[str, Callable[..., bytes]] = {"csv": to_csv, "jsonl": to_jsonl}
# How the names of files end, in small letters, and their formats.
ENDINGS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


def encoder(format: str) -> Callable[[pa.Table], bytes]:
    """What makes a whole file of a table."""
    return ENCODERS.get(format, to_parquet)


def _flat(column: pa.ChunkedArray) -> Any:
    """A column that CSV can hold: JSON of lists and structs, base64 of bytes."""
    kind = column.type
    if pa.types.is_nested(kind):
        write = _encoder.encode
    elif kind in (pa.binary(), pa.large_binary()) or pa.types.is_fixed_size_binary(kind):
        write = base64.b64encode
    else:
        return column
    values = (None if value is None else write(value).decode() for value in column.to_pylist())
    return pa.array(values, pa.string())
