"""Rows that are in memory already, as an Arrow table: DataFrames, tables, lists of texts."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from bertbatch.errors import JobError


def as_table(data: Any, texts: list[str]) -> tuple[pa.Table, Any]:
    """The data as an Arrow table, and a pandas index if it has one.

    `texts` are the columns to score, of which the first has a list's texts. Raises JobError, which
    names the column and the row of what is wrong.
    """
    table, index = _read(data, texts[0])
    for place, name in enumerate(table.column_names):
        column = table.column(place)
        if name in texts and column.null_count == len(column):  # of any type, such as NaN's
            table = table.set_column(place, name, pa.nulls(len(column), pa.string()))
    return table, index


def _read(data: Any, text: str) -> tuple[pa.Table, Any]:
    if isinstance(data, pa.Table):
        return data, None
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        raise JobError(
            f"data is {type(data).__name__}: give a DataFrame, an Arrow table or a list of texts; "
            "files are scored by a job, see bertbatch.run"
        )
    if not hasattr(data, "columns"):
        index = getattr(data, "index", None) if hasattr(data, "iloc") else None  # of a Series
        values = data if hasattr(data, "iloc") else list(data)
        try:
            return pa.table({text: pa.array(values, pa.string(), from_pandas=True)}), index
        except (pa.ArrowException, TypeError, ValueError):
            raise JobError(f"data: {_not_text(values)}") from None
    if hasattr(data, "to_arrow"):  # Polars
        return data.to_arrow(), None
    names = [str(name) for name in data.columns]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise JobError(f"data has two columns named '{twice}'; rename or drop one")
    try:
        table = pa.Table.from_pandas(data, preserve_index=False)
        return table, getattr(data, "index")  # noqa: B009
    except (pa.ArrowException, TypeError, ValueError):
        raise JobError(f"data: {_mixed(data)}") from None


def _mixed(frame: Any) -> str:
    """Which column of a DataFrame has values that Arrow cannot hold together."""
    for name in frame.columns:
        try:
            pa.array(frame[name], from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError):
            return f"column '{name}', {_not_text(frame[name])}"
    return "it cannot be read as a table; give the columns with the texts alone"


def _not_text(values: Iterable[Any]) -> str:
    """The first of some values that is no text, by its row, counted from 0."""
    for row, value in enumerate(values):
        try:
            pa.array([value], pa.string(), from_pandas=True)
        except UnicodeEncodeError:
            return f"row {row} has half a character (a lone surrogate), which is no Unicode"
        except (pa.ArrowException, TypeError, ValueError):
            return f"row {row} is {type(value).__name__}, not text; convert it, or make it None"
    return "its values have several types; convert them to text"
