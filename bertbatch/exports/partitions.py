"""Rows by the values of columns, in folders named as Hive names them."""

from collections.abc import Iterator, Sequence
from urllib.parse import quote

import pyarrow as pa

NULL = "__HIVE_DEFAULT_PARTITION__"


def partitioned(table: pa.Table, by: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each folder, without the columns that it names; "" if there are none."""
    if not by:
        yield "", table
        return
    keys = table.select(by).append_column("_row", pa.array(range(table.num_rows)))
    groups = keys.group_by(list(by), use_threads=False).aggregate([("_row", "list")])
    rest = table.drop_columns(list(by))
    rows: dict[str, list[int]] = {}  # several values may have one folder
    for group in groups.to_pylist():
        folder = "/".join(f"{_encoded(name)}={_value(group[name])}" for name in by)
        rows.setdefault(folder, []).extend(group["_row_list"])
    for folder, held in rows.items():
        yield folder, rest.take(pa.array(sorted(held), pa.int64()))


def _value(value: object) -> str:
    if value is None or value == "":
        return NULL
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return _encoded(text)


def _encoded(text: str) -> str:
    return quote(text, safe=" !$()+,-.@_~")


def check_partitions(by: Sequence[str], schema: pa.Schema) -> str | None:
    """What is wrong with partitioning by some columns, if anything."""
    for name in by:
        if name not in schema.names:
            return f"there is no column '{name}'; there are: {', '.join(schema.names)}"
        kind = schema.field(name).type
        if pa.types.is_nested(kind) or pa.types.is_floating(kind) or pa.types.is_binary(kind):
            return f"column '{name}' is {kind}; name columns of text, integers or days"
    if len(set(by)) < len(by) or len(by) >= len(schema):
        return "each column may be named once, and one must be left"
    return None
