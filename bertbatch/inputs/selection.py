"""Which rows a job scores: those for which `input.where` is true, if the job has it.

The columns that the condition names keep the types that they had in the first source, like
carried columns. Rows that are left out are counted; a row that cannot tell goes to quarantine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from bertbatch.inputs.formats.reader import Reader, Rows
from bertbatch.inputs.typed_columns import folder_values, typed_columns
from bertbatch.job.input import Input
from bertbatch.units import Cut, Source


def select(
    options: Input, schema: pa.Schema, source: Source, rows: Rows, folders: Mapping[str, str | None]
) -> Rows:
    """The rows without those that `input.where` leaves out.

    `schema` has the types of the columns that it names. Raises SourceError.
    """
    from bertbatch.inputs.where import condition  # imports sqlglot

    assert options.where is not None
    names = {name: name for name in options.where_columns}
    true, reasons = condition(options.where).select(
        typed_columns(names, schema, source, rows.table, folders)
    )
    bad = [(int(rows.row[i]), why) for i, why in reasons.items()]
    true[list(reasons)] = False
    left_out = int(len(true) - true.sum() - len(bad))
    return Rows(
        rows.table.filter(pa.array(true)),
        rows.row[true],
        sorted([*rows.bad, *bad]),
        rows.left_out + left_out,
    )


def shorten(
    reader: Reader,
    source: Source,
    cuts: Sequence[Cut],
    options: Input,
    types: pa.Schema,
    rules: Mapping[str, int],
    limit: int,
) -> list[Cut]:
    """The cuts of the first `limit` rows that are not left out, each with their number.

    Raises SourceError.
    """
    folders = folder_values(source, rules)
    # A table without columns would forget how many rows it has.
    columns = dict.fromkeys(options.text_columns) | {
        field.name: field.type for field in types if field.name not in folders
    }
    kept: list[Cut] = []
    for cut, rows in zip(cuts, reader.read(source, cuts, columns, options), strict=True):
        selected = select(options, types, source, rows, folders)
        numbers = sorted([*selected.row.tolist(), *(row for row, _ in selected.bad)])
        if len(numbers) > limit:
            n = numbers[limit - 1] - cut.first_row + 1
            cut = replace(cut, rows=n, bytes=cut.bytes * n // cut.rows)
            del numbers[limit:]
        kept.append(replace(cut, selected=len(numbers)))
        limit -= len(numbers)
        if not limit:
            break
    return kept
