"""Folders whose names are columns: `day=2026-11-23`, as Hive has them."""

from pathlib import PurePosixPath
from urllib.parse import unquote

from bertbatch.units import Source

_NULL = "__HIVE_DEFAULT_PARTITION__"


def partitions(source: Source) -> dict[str, str]:
    """The hive-style partition folders on a source's path, such as day=2026-11-23/, as named."""
    folders = PurePosixPath(source.path).parts[:-1]
    pairs = [folder.split("=", 1) for folder in folders if "=" in folder]
    return {name: value for name, value in pairs if name}


def decoded(value: str) -> str | None:
    """A partition folder's value as Hive, Spark and DuckDB read it. Raises UnicodeDecodeError."""
    return None if value == _NULL else unquote(value, errors="strict")
