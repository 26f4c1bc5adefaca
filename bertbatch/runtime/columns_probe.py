"""The columns of the first sources, looked at before anything starts: which types do they have?"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache

import pyarrow as pa

from bertbatch.errors import JobError, SourceError
from bertbatch.inputs.folders import partitions
from bertbatch.inputs.formats.columns import check_columns, field_of, path_of
from bertbatch.inputs.formats.reader import Reader
from bertbatch.inputs.listing import Listing
from bertbatch.inputs.rows import is_text
from bertbatch.inputs.typed_columns import column_types
from bertbatch.job.schema import Job
from bertbatch.units import Source

PROBED_SOURCES = 16  # to find what is wrong with all of them


class _Types:
    """The types of columns, of which sources tell more and more."""

    def __init__(self, names: Mapping[str, str], what: str):
        self._names, self._what = names, what
        self._known: dict[str, pa.DataType] = {}

    def look(self, source: Source, schema: pa.Schema) -> None:
        """Raises SourceError if the source lacks one."""
        for field in column_types(self._names, self._what, source, schema):
            # A column of nulls does not tell its type; a later source may.
            if pa.types.is_null(self._known.get(field.name, pa.null())):
                self._known[field.name] = field.type

    @property
    def complete(self) -> bool:
        return len(self._known) == len(self._names) and not any(
            pa.types.is_null(kind) for kind in self._known.values()
        )

    @property
    def schema(self) -> pa.Schema:
        """What nothing is known of is text."""
        kinds = {new: self._known.get(new, pa.null()) for new in self._names}
        return pa.schema(
            [(n, pa.string() if pa.types.is_null(kind) else kind) for n, kind in kinds.items()]
        )


SchemaOf = Callable[[Source], pa.Schema]  # of a file, which is opened once


def schemas(job: Job, reader: Reader) -> SchemaOf:
    """What reads the schema of a source, and remembers it."""
    return cache(lambda source: reader.schema(source, job.input))


def probe(job: Job, listing: Listing, schema_of: SchemaOf) -> tuple[pa.Schema, pa.Schema]:
    """The types of the carried columns, and of those that `input.where` names.

    Raises JobError if all of the first sources are wrong, or the types do not go with the job.
    """
    problem: SourceError | None = None
    carried = _Types(job.input.carried, "to carry")
    where = _Types({name: name for name in job.input.where_columns}, "for input.where")
    named = not (listing.format == "csv" and job.input.csv.header)
    readable = False
    for source in listing.sources[:PROBED_SOURCES]:
        try:
            schema = schema_of(source)
            if not len(schema):
                continue  # an empty file has nothing to say
            for key, columns in job.input.texts.items():
                for column in columns:
                    _check_text(source, schema, key, column, named)
            for types in (carried, where):
                types.look(source, schema)
            readable = True
            if carried.complete and where.complete:
                break
        except SourceError as error:
            problem = problem or error
    if problem and not readable:
        raise JobError(str(problem))
    if job.input.where is not None and readable:
        from bertbatch.inputs.where import condition  # imports sqlglot

        try:
            condition(job.input.where).check(where.schema)
        except ValueError as error:
            raise JobError(f"input.where: {error}") from error
    return carried.schema, where.schema


def first_columns(listing: Listing, schema_of: SchemaOf) -> list[str]:
    """The columns of the first source that can be read, and of its folders."""
    for source in listing.sources[:PROBED_SOURCES]:
        with suppress(SourceError):  # which `probe` will report
            schema = schema_of(source)
            if len(schema):
                return list(dict.fromkeys([*schema.names, *partitions(source)]))
    return []


def _check_text(source: Source, schema: pa.Schema, key: str, column: str, named: bool) -> None:
    """Raises SourceError if a source has no such column, or not one of text.

    Unless its columns are surely `named`, their names may be a row.
    """
    if path_of(column, schema) is None:
        have = ", ".join(schema.names)
        if key == "template":
            reason = f"has no column '{column}', which input.template names; it has: {have}"
            raise SourceError(source.id, reason)
        reason = f"has no {key.replace('_', ' ')} column '{column}'; it has: {have}"
        if len(schema) == 1 and (other := [mark for mark in ";\t|" if mark in have]):
            reason += f". Is {other[0]!r} between columns? Then --set"
            raise SourceError(source.id, f'{reason} "input.csv.delimiter={other[0]!r}"')
        if not named and any(is_value(name) for name in schema.names):
            reason += ". Is its first line a row, not a header? Then --set input.csv.header=false"
            raise SourceError(source.id, f"{reason} names the columns c0, c1 and so on")
        flag = key.replace("_", "-")
        raise SourceError(source.id, f"{reason} (choose one with --{flag} or input.{key})")
    check_columns(source, [column], schema)
    kind = field_of(column, schema).type
    if key == "template":
        with suppress(pa.ArrowNotImplementedError):
            pa.nulls(0, kind).cast(pa.string())
            return
    if not is_text(kind):
        raise SourceError(source.id, f"column '{column}' is {kind}, not text")


def is_value(name: str) -> bool:
    """Whether a column's name may rather be a value: a number, or a text."""
    return name.replace(".", "").isdecimal() or len(name.split()) > 2
