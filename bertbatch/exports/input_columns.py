"""The input's columns beside its predictions: `bertbatch export --with-input`.

Each row's source is read again, as it was planned. A source that has changed since is refused.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from bertbatch.errors import JobError, SourceError
from bertbatch.inputs.formats.reader import Reader
from bertbatch.inputs.rows import check_unchanged
from bertbatch.inputs.typed_columns import column_types, folder_values, typed_columns
from bertbatch.job.carry import carried, carry_all
from bertbatch.job.input import Input
from bertbatch.runtime.columns_probe import first_columns, schemas
from bertbatch.runtime.preflight import Preflight
from bertbatch.units import Span, Unit


@dataclass(frozen=True)
class InputColumns:
    """Columns by new name and old, with the types of the first source."""

    reader: Reader
    options: Input
    names: dict[str, str]
    schema: pa.Schema
    rules: dict[str, int]

    @classmethod
    def of(cls, preflight: Preflight) -> "InputColumns":
        """All columns of the first source that the output does not carry. Raises JobError."""
        job, taken = preflight.job, preflight.schema.names
        schema_of = schemas(job, preflight.reader)
        known = set(job.input.carried.values())
        columns = [
            name for name in first_columns(preflight.listing, schema_of) if name not in known
        ]
        specs, _ = carry_all(columns, [], taken)
        names = {new: old for old, new in map(carried, specs[1:])}
        for source in preflight.listing.sources:
            try:
                schema = column_types(names, "", source, schema_of(source))
                break
            except SourceError as error:
                problem = error
        else:
            raise JobError(f"--with-input: {problem}")
        return cls(preflight.reader, job.input, names, schema, preflight.rules)

    def joined(self, unit: Unit, table: pa.Table) -> pa.Table:
        """A unit's rows with these columns. Raises JobError if they are not there any more."""
        try:
            found = [self._columns(span, table) for span in unit.spans]
        except SourceError as error:
            raise JobError(f"--with-input: {error}") from error
        extra = pa.concat_tables(found)
        for name in extra.column_names:
            table = table.append_column(extra.schema.field(name), extra[name])
        return table

    def _columns(self, span: Span, table: pa.Table) -> pa.Table:
        """The columns of those rows of the table that are of a span, in their order."""
        source = span.source
        check_unchanged(source, self.options)
        folders = folder_values(source, self.rules)
        columns = {old: self.schema.field(new).type for new, old in self.names.items()}
        in_file = {old: kind for old, kind in columns.items() if old not in folders}
        (rows,) = self.reader.read(source, [span.cut], in_file, self.options)
        typed = typed_columns(self.names, self.schema, source, rows.table, folders)
        mine = np.asarray(table["source"].combine_chunks()) == source.id
        wanted = table["row"].to_numpy()[mine]
        at = np.searchsorted(rows.row, wanted)
        for row, why in rows.bad:
            if row in wanted:
                raise SourceError(source.id, f"row {row}, which was scored: {why}")
        if len(wanted) and (len(rows.row) <= at.max() or (rows.row[at] != wanted).any()):
            raise SourceError(source.id, "has not the rows that were scored")
        return typed.take(pa.array(at))
