"""Sources for the tests, in Parquet and CSV."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_parquet(
    path: Path,
    texts: list[str | None],
    first: int = 0,
    pair: list[str] | None = None,
    **options: Any,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = pa.array(range(first, first + len(texts)), pa.int64())
    table = pa.table({"id": ids, "text": pa.array(texts, pa.string())})
    if pair is not None:
        table = table.append_column("pair", pa.array(pair, pa.string()))
    pq.write_table(table, path, **options)


def write_csv(path: Path, texts: list[str], first: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("id,text\n" + "".join(f'{first + i},"{t}"\n' for i, t in enumerate(texts)))


WRITE: dict[str, Callable[..., None]] = {"parquet": write_parquet, "csv": write_csv}


def spoil_a_page(path: Path, row_group: int) -> bytes:
    """Overwrites the text column's data in one row group; the footer stays whole."""
    good = path.read_bytes()
    column = pq.read_metadata(path).row_group(row_group).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    size = column.total_compressed_size
    path.write_bytes(good[:start] + b"\xff" * size + good[start + size :])
    return good
