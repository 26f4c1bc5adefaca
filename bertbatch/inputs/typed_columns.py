"""Columns whose types stay those of the first source: carried ones, those of `input.where`.

Values of other sources are converted where that loses nothing. A folder such as `day=2026-11-23`
is a column, too.
"""

from collections.abc import Mapping

import pyarrow as pa

from bertbatch.errors import SourceError
from bertbatch.inputs.folders import decoded, partitions
from bertbatch.inputs.formats.columns import check_columns, field_of, path_of
from bertbatch.units import Source


def typed_columns(
    names: Mapping[str, str],
    schema: pa.Schema,
    source: Source,
    table: pa.Table,
    folders: Mapping[str, str | None],
) -> pa.Table:
    """Columns by new name and old, under their new names and types. Raises SourceError."""
    columns, fields = [], []
    for new, old in names.items():
        field = schema.field(new)
        if old in folders:
            column = pa.repeat(pa.scalar(folders[old], pa.string()), table.num_rows)
        else:
            column = table.column(old)
        if column.type != field.type:
            try:
                column = column.cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                reason = f"column '{old}' is {column.type}, the output's is {field.type}: {error}"
                raise SourceError(source.id, reason) from error
        columns.append(column)
        fields.append(field)
    if not columns:  # a table without columns would forget how many rows it has
        return pa.table({"": pa.nulls(table.num_rows)}).select([])
    return pa.table(columns, schema=pa.schema(fields))


def column_types(
    names: Mapping[str, str], what: str, source: Source, schema: pa.Schema
) -> pa.Schema:
    """The types of columns by new name and old, in a source.

    Raises SourceError without one; `what` says what it is for.
    """
    folders = partitions(source)
    fields = []
    for new, old in names.items():
        if old not in folders and path_of(old, schema) is None:
            have = ", ".join([*schema.names, *folders])
            raise SourceError(source.id, f"has no column '{old}' {what}; it has: {have}")
        if old not in folders:
            check_columns(source, [old], schema)
        kind = pa.string() if old in folders else _storable(field_of(old, schema).type)
        fields.append(pa.field(new, kind))
    return pa.schema(fields)


def _storable(kind: pa.DataType) -> pa.DataType:
    """The type of a carried column in the output: one that holds every shard's values."""
    if pa.types.is_dictionary(kind):  # the next shard's dictionary may need a wider index
        return pa.dictionary(pa.int32(), kind.value_type, kind.ordered)
    if pa.types.is_string_view(kind):  # pyarrow cannot filter views
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_map(kind):
        return pa.map_(_storable(kind.key_type), _storable(kind.item_type), kind.keys_sorted)
    if pa.types.is_struct(kind):
        return pa.struct(
            [kind.field(i).with_type(_storable(kind.field(i).type)) for i in range(kind.num_fields)]
        )
    if pa.types.is_list(kind):
        return pa.list_(_inner(kind))
    if pa.types.is_large_list(kind):
        return pa.large_list(_inner(kind))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_inner(kind), kind.list_size)
    return kind


def _inner(kind: pa.DataType) -> pa.Field:
    return kind.value_field.with_type(_storable(kind.value_type))


def folder_values(source: Source, rules: Mapping[str, int]) -> dict[str, str | None]:
    """The partition values on a source's path. Raises SourceError if one cannot be decoded."""
    raw = partitions(source)
    if rules.get("hive", 0) < 1:
        return dict(raw)
    try:
        return {name: decoded(value) for name, value in raw.items()}
    except UnicodeDecodeError as error:
        raise SourceError(source.id, f"a folder's name is not UTF-8: {error}") from error
