"""Exports of one output into many tables, by processes that begin each of them at the same time."""

import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa

OTHERS = 3  # rows that another writer adds to each table


def catalog_of(root: Path) -> None:
    """A catalog `c` of this process's, in a file."""
    os.environ["PYICEBERG_CATALOG__C__URI"] = f"sqlite:///{root}/catalog.db"
    os.environ["PYICEBERG_CATALOG__C__WAREHOUSE"] = f"file://{root}"
    import pyiceberg.catalog
    from pyiceberg.utils.config import Config

    pyiceberg.catalog._ENV_CONFIG = Config()  # which reads them once in a process


def begin_catalog(root: Path) -> None:
    from pyiceberg.catalog import load_catalog

    root.mkdir(exist_ok=True)
    catalog_of(root)
    load_catalog("c").create_namespace("n")


def target_of(kind: str, root: Path, i: int) -> str:
    return f"iceberg://c/n.t{i}" if kind == "iceberg" else str(root / f"t{i}")


def export_into(kind: str, root: Path, i: int, output: str, by: tuple[str, ...] = ()) -> None:
    from bertbatch.exports import batches
    from bertbatch.exports.export import Request, export

    named = None if kind == "iceberg" else kind
    with patch.object(batches, "MOST_ROWS", 30):  # which others of this process do not see
        export(Request(output, target_of(kind, root, i), named, by))


def exporter(
    kind: str, root: Path, tables: range, output: str, by: tuple[str, ...], barrier: Any
) -> None:
    """Exports into each table; on every second, a moment after the other."""
    catalog_of(root)
    draw = random.Random(os.getpid())
    for i in tables:
        barrier.wait(120)
        if i % 2:
            time.sleep(draw.uniform(0, 0.05))
        export_into(kind, root, i, output, by)


def other_writer(kind: str, root: Path, tables: range, barrier: Any) -> None:
    """Appends rows of its own to each table, once it is there."""
    catalog_of(root)
    for i in tables:
        barrier.wait(120)
        added = 0
        while added < OTHERS:
            try:
                _append(kind, root, i, added)
                added += 1
            except Exception:  # not there yet, or another commit came first
                time.sleep(0.01)


def _append(kind: str, root: Path, i: int, number: int) -> None:
    if kind == "delta":
        from deltalake import DeltaTable, write_deltalake

        table = DeltaTable(target_of(kind, root, i))
        schema = pa.schema(table.schema().to_arrow())
        write_deltalake(table, row_like(schema, number), mode="append")
        return
    from pyiceberg.catalog import load_catalog

    loaded = load_catalog("c").load_table(f"n.t{i}")
    loaded.metadata.properties["commit.retry.num-retries"] = "0"
    loaded.append(row_like(loaded.schema().as_arrow(), number))


def row_like(schema: pa.Schema, number: int) -> pa.Table:
    """A row of another writer's, with a value in every column."""
    values = {"row": number, "source": "other", "label": "other"}
    columns = [
        pa.array([values[name] if name in values else _some(kind)], kind)
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    return pa.table(columns, schema=schema)


def _some(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return []
    return False if pa.types.is_boolean(kind) else 0


def rows_in(kind: str, root: Path, i: int) -> Counter[tuple[str, int]]:
    """How often each row is in a table, by its source and number."""
    if kind == "delta":
        from deltalake import DeltaTable

        found = pa.table(DeltaTable(target_of(kind, root, i)).scan(columns=["source", "row"]))
    else:
        from pyiceberg.catalog import load_catalog

        table = load_catalog("c").load_table(f"n.t{i}")
        found = table.scan(selected_fields=("source", "row")).to_arrow()
    sources = found["source"].cast(pa.string()).to_pylist()
    return Counter(zip(sources, found["row"].to_pylist(), strict=True))
