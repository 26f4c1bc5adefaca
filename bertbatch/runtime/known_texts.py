"""The rows of a unit whose texts other units have, too.

They are taken out where the unit is read, and put back with their stored answers at its commit.
"""

import zlib
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

from bertbatch.inputs.rows import Chunk
from bertbatch.job.models import column_of
from bertbatch.repeats.hashes import text_hashes
from bertbatch.repeats.stored import HASH, REASON, find_answers
from bertbatch.runtime.context import Context
from bertbatch.runtime.counts import Counts
from bertbatch.runtime.output_schema import model_fields
from bertbatch.runtime.passthrough import Passthrough, Repeated
from bertbatch.tasks.task import task_of
from bertbatch.units import Unit

COUNTED = ("unknown", "content")  # tokens of a text, which no column of the output has


def hashes_of(chunks: Sequence[Chunk]) -> pa.Array:
    """The hashes of all texts of some chunks."""
    return pa.concat_arrays([text_hashes(chunk.texts, chunk.pair_texts) for chunk in chunks])


def answer_fields(context: Context) -> list[pa.Field]:
    """What is stored of the answer to a text."""
    counted = [
        pa.field(_counted(model, name), pa.int64(), nullable=False)
        for model in context.specs
        for name in COUNTED
    ]
    return [*model_fields(context.specs, None), *counted]


def answer_table(
    context: Context, passthrough: Passthrough, columns: Mapping[str, Any], kept: np.ndarray
) -> pa.Table:
    """The answers to texts as they are stored, from the columns of the kept rows."""
    counted = {
        _counted(model, name): pa.array(getattr(passthrough.texts[model], name)[kept], pa.int64())
        for model in context.specs
        for name in COUNTED
    }
    found = {**columns, **counted}
    fields = answer_fields(context)
    return pa.table([found[field.name] for field in fields], schema=pa.schema(fields))


def _counted(model: str, name: str) -> str:
    return f"{model} {name} tokens"  # no column has a space there


def take_known(
    context: Context, unit: Unit, chunks: list[Chunk]
) -> tuple[list[Chunk], Repeated | None, int]:
    """The chunks with the rows that are to be scored, those whose answers are stored, and a number
    that says which are which.

    A text is known by its hash, so that a source which has changed can get no other's answers.
    """
    starts = [0, *accumulate(len(chunk.row) for chunk in chunks)]
    if unit.first_texts is not None:
        kept = np.zeros(starts[-1], bool)
        kept[unit.first_texts[unit.first_texts < starts[-1]]] = True
        return _only(chunks, starts, kept), None, 0
    assert unit.repeats is not None
    fields = answer_fields(context)
    known, answers = find_answers(context.output, unit.repeats, hashes_of(chunks), fields)
    if not known.any():
        return chunks, None, 0
    taken = _only(chunks, starts, known)
    why = answers[REASON].to_pylist()
    repeated = Repeated(
        source=np.repeat(
            np.arange(len(taken), dtype=np.int32), [len(chunk.row) for chunk in taken]
        ),
        row=np.concatenate([chunk.row for chunk in taken]),
        carried=pa.concat_tables([chunk.carried for chunk in taken]),
        answers=answers.drop_columns([HASH, REASON]),
        reasons={i: reason for i, reason in enumerate(why) if reason is not None},
    )
    return _only(chunks, starts, ~known), repeated, zlib.crc32(known.tobytes()) + 1


def _only(chunks: Sequence[Chunk], starts: Sequence[int], kept: np.ndarray) -> list[Chunk]:
    """Those rows of all chunks that are to be kept, by bool [rows of all]."""
    pairs = zip(chunks, starts, strict=False)
    return [chunk.only(kept[start : start + len(chunk.row)]) for chunk, start in pairs]


def with_stored(
    context: Context, ids: Sequence[str], scored: pa.Table, repeated: Repeated, counts: Counts
) -> pa.Table:
    """The scored rows of a unit with those whose answers are stored, in the order of the input."""
    kept = repeated.answered
    mask = pa.array(kept)
    carried = {name: repeated.carried[name].filter(mask) for name in repeated.carried.column_names}
    answers = repeated.answers.filter(mask)
    _count(context, counts, answers)
    columns: dict[str, pa.ChunkedArray] = {
        "source": pa.chunked_array([origin_column(ids, repeated.source[kept])]),
        "row": pa.chunked_array([pa.array(repeated.row[kept])]),
        **carried,
        **dict(zip(answers.column_names, answers.columns, strict=True)),
    }
    typed = [columns[field.name].unify_dictionaries().cast(field.type) for field in context.schema]
    stored = pa.table(typed, schema=context.schema)
    source = np.concatenate([_sources(ids, table) for table in (scored, stored)])
    table = pa.concat_tables([scored, stored]).unify_dictionaries()
    return table.take(pa.array(np.lexsort((table["row"].to_numpy(), source))))


def origin_column(ids: Sequence[str], source: np.ndarray) -> pa.DictionaryArray:
    """The output's column `source`."""
    return pa.DictionaryArray.from_arrays(source, pa.array(ids, pa.string()))


def _sources(ids: Sequence[str], table: pa.Table) -> np.ndarray:
    """The place of each row's source among those of its unit."""
    place = {id_: i for i, id_ in enumerate(ids)}
    return np.array([place[id_] for id_ in table["source"].to_pylist()], np.int64)


def _count(context: Context, counts: Counts, answers: pa.Table) -> None:
    counts.rows_scored += answers.num_rows
    counts.rows_repeated += answers.num_rows
    for model, spec in context.specs.items():

        def total(name: str) -> int:
            return int(answers[name].to_numpy().sum())

        task = task_of(spec)
        columns = [_one(answers[column_of(model, field.name)]) for field in task.fields]
        counts.count_labels(model, task.labelled(columns), answers.num_rows)
        counts.tokens += total(column_of(model, "n_tokens"))
        counts.truncated[model] += total(column_of(model, "truncated"))
        counts.unknown[model] += total(_counted(model, "unknown"))
        counts.content[model] += total(_counted(model, "content"))


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.unify_dictionaries().combine_chunks()
