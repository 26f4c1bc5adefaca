"""The rows of a unit whose texts other units have, too.

They are taken out where the unit is read, and put back with their stored answers at its commit.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import pyarrow as pa

from bertbatch.inputs.rows import Chunk
from bertbatch.job.models import column_of
from bertbatch.output.folder import Output
from bertbatch.repeats.hashes import text_hashes
from bertbatch.repeats.stored import HASH, REASON, find_answers
from bertbatch.runtime.context import Context
from bertbatch.runtime.counts import Counts
from bertbatch.runtime.passthrough import Repeated
from bertbatch.tasks.task import task_of
from bertbatch.units import Unit


def hashes_of(chunks: Sequence[Chunk]) -> pa.Array:
    """The hashes of all texts of some chunks."""
    return pa.concat_arrays([text_hashes(chunk.texts, chunk.pair_texts) for chunk in chunks])


def take_known(
    output: Output, unit: Unit, chunks: list[Chunk]
) -> tuple[list[Chunk], Repeated | None]:
    """The chunks with the rows that are to be scored, and those whose answers are stored.

    A text is known by its hash, so that a source which has changed can get no other's answers.
    """
    starts = [0, *accumulate(len(chunk.row) for chunk in chunks)]
    if unit.first_texts is not None:
        kept = np.zeros(starts[-1], bool)
        kept[unit.first_texts[unit.first_texts < starts[-1]]] = True
        return _only(chunks, starts, kept), None
    if unit.repeats is None:
        return chunks, None
    inside = unit.repeats.at < starts[-1]
    at, file = unit.repeats.at[inside].astype(np.int64), unit.repeats.file[inside]
    known = np.zeros(starts[-1], bool)
    known[at] = True
    hashes = hashes_of(_only(chunks, starts, known))
    found, answers = find_answers(output, unit.repeats.files, file, hashes)
    if not found.any():
        return chunks, None
    known[at[~found]] = False
    taken = _only(chunks, starts, known)
    lengths = [len(chunk.row) for chunk in taken]
    why = answers[REASON].to_pylist() if REASON in answers.column_names else []
    repeated = Repeated(
        source=np.repeat(np.arange(len(taken), dtype=np.int32), lengths),
        row=np.concatenate([chunk.row for chunk in taken]),
        carried=pa.concat_tables([chunk.carried for chunk in taken]),
        answers=answers.drop_columns([n for n in (HASH, REASON) if n in answers.column_names]),
        reasons={i: reason for i, reason in enumerate(why) if reason is not None},
    )
    return _only(chunks, starts, ~known), repeated


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
        task = task_of(spec)
        columns = [_one(answers[column_of(model, field.name)]) for field in task.fields]
        counts.count_labels(model, task.labelled(columns), answers.num_rows)
        counts.tokens += int(_one(answers[column_of(model, "n_tokens")]).to_numpy().sum())
        counts.truncated[model] += answers[column_of(model, "truncated")].to_pylist().count(True)


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.unify_dictionaries().combine_chunks()
