"""Columns by name, in files whose columns have types.

A name with dots is a column of that name, or else a field of a struct: `a.b` is `b` of `a`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from bertbatch.errors import SourceError
from bertbatch.units import Source


def check_columns(source: Source, wanted: Iterable[str], found: pa.Schema) -> None:
    """Raises SourceError if a wanted column is not among those found, or more than once."""
    times = Counter(found.names)
    for name in wanted:
        if path_of(name, found) is None:
            have = ", ".join(found.names)
            raise SourceError(source.id, f"has no column '{name}'; it has: {have}")
        if times[name] > 1:
            reason = f"has {times[name]} columns named '{name}'; rename those that are not meant"
            raise SourceError(source.id, reason)


@dataclass(frozen=True)
class Columns:
    """Columns by name in a file that has types: each at its place, which may be in a struct."""

    paths: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, wanted: Iterable[str], schema: pa.Schema) -> "Columns":
        """Those that there are."""
        paths = {name: path_of(name, schema) for name in wanted}
        return cls({name: path for name, path in paths.items() if path is not None})

    @property
    def roots(self) -> set[str]:
        """The columns that hold them."""
        return {path[0] for path in self.paths.values()}

    @property
    def leaves(self) -> list[str]:
        """How Parquet names them."""
        return [".".join(path) for path in self.paths.values()]

    def schema(self, whole: pa.Schema) -> pa.Schema:
        """Their names and types, from those of the file."""
        return pa.schema([field_of(name, whole) for name in self.paths])

    def picked(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A batch of them, from one that holds at least them."""
        arrays = []
        for root, *inner in self.paths.values():
            array = batch.column(root)
            arrays.append(pc.struct_field(array, inner) if inner else array)
        # With the fields of the file, which may say that there are no nulls.
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema(batch.schema))


def path_of(name: str, schema: pa.Schema | pa.StructType) -> tuple[str, ...] | None:
    """Where a column is: `a.b` is one of that name, or else the field `b` of the struct `a`."""
    names = [field.name for field in schema]
    if name in names:
        return (name,)
    for outer in names:
        if not name.startswith(f"{outer}.") or names.count(outer) > 1:
            continue
        kind = schema.field(outer).type
        if pa.types.is_struct(kind):
            inner = path_of(name.removeprefix(f"{outer}."), kind)
            if inner is not None:
                return (outer, *inner)
    return None


def field_of(name: str, schema: pa.Schema) -> pa.Field:
    """The field of a column that is there, under its name."""
    first, *rest = path_of(name, schema) or ()
    field = schema.field(first)
    for inner in rest:
        field = field.type.field(inner)
    return field if not rest else pa.field(name, field.type)
