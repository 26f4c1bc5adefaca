"""Files that commands write beside outputs: where they may lie, how they are named."""

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from bertbatch.display.lines import show
from bertbatch.errors import JobError
from bertbatch.exports.encode import ENDINGS, encoder

PAGE = (".html", ".htm")


def check_outside(path: Path, outputs: Sequence[str]) -> None:
    """Raises JobError if a file would be written among an output's parts."""
    if "\0" in str(path):
        raise JobError(f"--to {str(path)!r}: a path cannot have a NUL in it")
    for output in outputs:
        if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(output)):
            raise JobError(f"--to {path} lies inside {output}, among its parts; name another place")


def check_ending(option: str, path: Path, what: str, endings: Sequence[str]) -> None:
    """Raises JobError if a file's name does not say what it will hold."""
    if path.suffix.lower() not in endings:
        *most, last = endings
        raise JobError(
            f"{option} {path}: the name of {what} ends in {', '.join(most)} or {last}; name "
            "another file"
        )


def check_table(path: Path, outputs: Sequence[str]) -> None:
    """Raises JobError if no table of these outputs can be written there."""
    check_outside(path, outputs)
    check_ending("--to", path, "a table", list(ENDINGS))


def write_table(table: pa.Table, path: Path) -> None:
    """Writes a table in the format that its name says. Raises JobError if it cannot be written."""
    data = encoder(ENDINGS[path.suffix.lower()])(table)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise JobError(f"--to {path}: cannot be written: {error.strerror or error}") from error
    show(f"{table.num_rows:,} rows written to {path}")
