"""The rows of some parts as they are exported: in source order, with the columns asked for.

Rows that were in quarantine and scored later stand where they belong, if their part is of the same
batch. What the rows look like in a file or a table is not decided here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bertbatch.errors import JobError
from bertbatch.exports.input_columns import InputColumns
from bertbatch.job.models import column_of
from bertbatch.output.contract import stored_models, stored_schema
from bertbatch.output.folder import Output
from bertbatch.plan.log import PlanLog
from bertbatch.units import Unit


@dataclass(frozen=True)
class ExportedRows:
    """Reads the rows of parts. `classes`: a column of its own for each class in place of `scores`.

    `inputs` adds the columns of the input.
    """

    output: Output
    contract: dict[str, Any]
    plan: PlanLog
    classes: bool = False
    inputs: InputColumns | None = None

    @cached_property
    def _stored(self) -> pa.Schema:
        return stored_schema(self.contract)

    @cached_property
    def _labels(self) -> dict[str, list[str]]:
        """The columns of classes that stand in place of a column."""
        labels: dict[str, list[str]] = {}
        for model, said in stored_models(self.contract).items() if self.classes else ():
            column, taken = column_of(model, "scores"), self._stored.names
            kind = self._stored.field(column).type if column in taken else None
            if said.get("labels") and kind == pa.list_(pa.float32()):
                names = [column_of(model, f"p_{label}") for label in said["labels"]]
                labels[column] = [f"{n}_class" if n in taken else n for n in names]
        return labels

    @cached_property
    def schema(self) -> pa.Schema:
        """Of the rows. Dictionaries are plain values."""
        fields: list[pa.Field] = []
        for each in self._stored:
            if each.name in self._labels:
                fields += [pa.field(name, pa.float32()) for name in self._labels[each.name]]
            else:
                kind = each.type.value_type if pa.types.is_dictionary(each.type) else each.type
                fields.append(each.with_type(kind).remove_metadata())
        names = [each.name for each in fields]
        if self.inputs is not None:
            fields += [each for each in self.inputs.schema if each.name not in names]
        return pa.schema(fields)

    def ordered(self, parts: Sequence[str]) -> list[list[Unit]]:
        """The units of some parts in the order of their sources, each with what mends it.

        Raises JobError if the plan does not have them.
        """
        of_part = {unit.part: unit for unit in self.plan.units.values()}
        if not of_part.keys() >= set(parts):  # another exporter has seen what was planned since
            self.plan.refresh()
            of_part = {unit.part: unit for unit in self.plan.units.values()}
        if unknown := [part for part in parts if part not in of_part]:
            raise JobError(
                f"{self.output.path} has no plan for {unknown[0]}, which an export has begun to "
                "copy: it was withdrawn, or the output was restored; export to a new target"
            )
        units = [of_part[part] for part in parts]
        ids = {unit.id for unit in units}
        again: dict[str, list[Unit]] = {}
        for unit in units:
            if unit.retry and unit.retry.unit in ids:
                again.setdefault(unit.retry.unit, []).append(unit)
        first = sorted(
            (unit for unit in units if not (unit.retry and unit.retry.unit in ids)),
            key=lambda unit: (unit.spans[0].source.id, unit.spans[0].cut.first_row, unit.id),
        )
        return [[unit, *again.get(unit.id, [])] for unit in first]

    def read(self, units: Sequence[Unit]) -> pa.Table:
        """The rows of a unit, and of those that scored rows of it again. Raises JobError."""
        tables = []
        for unit in units:
            try:
                footer, table = self.output.part(unit.part)
            except OSError as error:
                raise JobError(f"{self.output.at(unit.part)} cannot be read: {error}") from error
            if table.num_rows != footer["rows_scored"]:
                raise JobError(
                    f"{self.output.at(unit.part)} is damaged; `bertbatch verify` says how"
                )
            tables.append(self._plain(table))
        table = pa.concat_tables(tables)
        if len(units) > 1:
            table = table.sort_by([("source", "ascending"), ("row", "ascending")])
        if self.inputs is not None:
            table = self.inputs.joined(units[0], table)
        return table.select(self.schema.names).cast(self.schema)

    def _plain(self, table: pa.Table) -> pa.Table:
        columns: dict[str, Any] = {}
        for name in table.column_names:
            column = table[name]
            if name in self._labels:
                for i, label in enumerate(self._labels[name]):
                    columns[label] = pc.list_element(column, i) if len(column) else _NONE
            elif pa.types.is_dictionary(column.type):
                columns[name] = column.cast(column.type.value_type)
            else:
                columns[name] = column
        return pa.table(columns)


_NONE = pa.array([], pa.float32())


def pieces(tables: Iterator[pa.Table], rows: int, size: int) -> Iterator[pa.Table]:
    """Tables put together until they have so many rows or bytes."""
    held: list[pa.Table] = []
    count = bytes_ = 0
    for table in tables:
        if not table.num_rows:
            continue
        held.append(table)
        count, bytes_ = count + table.num_rows, bytes_ + table.nbytes
        if count >= rows or bytes_ >= size:
            yield pa.concat_tables(held)
            held, count, bytes_ = [], 0, 0
    if held:
        yield pa.concat_tables(held)
