"""An export into a table that has a log of its own: each batch is one commit of the table.

The table itself keeps the number of the last batch that it has, in the same commit as the rows.
What is checked and what is committed is one version of the table; if another commit came between,
all of it begins again. Other writers are not disturbed.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import pyarrow as pa

from bertbatch.errors import JobError
from bertbatch.exports.batches import Batches, check_not_withdrawn
from bertbatch.exports.rows import ExportedRows
from bertbatch.units import Unit

MOST_CONFLICTS = 100  # in a row


class Conflict(Exception):
    """Another commit came first."""


class Table(Protocol):
    """One version of a table."""

    @property
    def id(self) -> str:
        """The table's own id."""

    @property
    def batches(self) -> int:
        """How many batches of this output it has."""

    def append(self, batch: int, schema: pa.Schema, rows: Iterator[pa.Table]) -> None:
        """Commits rows with the number of their batch. Raises Conflict or JobError."""


def into_table(opened: Callable[[], Table], rows: ExportedRows, parts: list[str]) -> int:
    """Commits every batch that the table lacks. Returns how many rows this added."""
    added = conflicts = 0
    while True:
        table = opened()
        batches = Batches(rows.output, table.id)
        known = batches.all()
        check_not_withdrawn(rows, known)
        if table.batches > len(known):
            raise JobError(
                f"the table has {table.batches} batches of {rows.output.path}, which knows "
                f"{len(known)}: the output was copied or restored since; export to a new table"
            )
        done = table.batches
        batch = known[done] if done < len(known) else batches.next(known, parts, rows.plan)
        if batch is None:
            return added
        counted: list[int] = []

        def tables(units: list[list[Unit]], counted: list[int]) -> Iterator[pa.Table]:
            for group in units:
                table = rows.read(group)
                counted.append(table.num_rows)
                yield table

        try:
            table.append(done + 1, rows.schema, tables(rows.ordered(batch), counted))
        except Conflict as error:
            conflicts += 1
            if conflicts > MOST_CONFLICTS:
                raise JobError(f"the table is always changed by others: {error}") from error
            continue
        conflicts = 0
        added += sum(counted)
