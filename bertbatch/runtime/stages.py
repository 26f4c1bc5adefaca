"""The stages of a unit around the models: reading with tokenizing, then the commit.

Each is a plain function of its arguments with a `Context`. Executors call them, and decide only
where they run.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from bertbatch.attention.aggregates import of_models
from bertbatch.attention.sample import sampled
from bertbatch.engines.scoring import Scored
from bertbatch.errors import DataLost
from bertbatch.inputs import rows
from bertbatch.inputs.formats.reader import reader_of
from bertbatch.job.input import Input
from bertbatch.job.models import column_of
from bertbatch.model.sequences import encode_rows
from bertbatch.model.tokenizer import get_tokenizer
from bertbatch.model.tokens import Answers, Tokens, joined
from bertbatch.output import commit as protocol
from bertbatch.output.folder import in_order
from bertbatch.repeats.stored import write_answers
from bertbatch.runtime.context import Context
from bertbatch.runtime.counts import EXAMPLES, Counts, Record, counts_in
from bertbatch.runtime.known_texts import (
    answer_table,
    hashes_of,
    origin_column,
    take_known,
    with_stored,
)
from bertbatch.runtime.passthrough import Origin, Passthrough, Prepared, TextFacts
from bertbatch.runtime.unit_statistics import Rows, unit_statistics
from bertbatch.storage.retry import retry
from bertbatch.tasks.task import task_of
from bertbatch.units import Unit

MOST_TEXT = 1 << 22  # characters of a text that is tokenized whole, which takes 200 bytes for each


def read_and_tokenize(context: Context, units: Sequence[Unit]) -> list[Prepared]:
    """The units of one read task, in order: all of them, or SourceError."""
    prepared = []
    reader, (options, types) = reader_of(context.format), _asked_of(context, units)
    for unit, read in rows.read_units(reader, options, types, units, context.rules):
        repeated, selection = None, 0
        if unit.repeats or unit.first_texts is not None:
            read, repeated, selection = take_known(context, unit, read)
        chunks, made = _encode(context, unit, read)
        source = np.repeat(
            np.arange(len(chunks), dtype=np.int32), [len(chunk.texts) for chunk in chunks]
        )
        row = np.concatenate([chunk.row for chunk in chunks])
        if attention := context.job.attention:
            ids = [span.source.id for span in unit.spans]
            chosen = sampled(ids, source, row, attention.sample)
            made = {key: replace(of, sampled=chosen[of.row]) for key, of in made.items()}
        facts = {key: _facts(tokens) for key, tokens in made.items()}
        scored = {
            key: replace(tokens, spans=None, selection=selection) for key, tokens in made.items()
        }
        encoding = {model: spec.encoding for model, spec in context.specs.items()}
        passthrough = Passthrough(
            source=source,
            row=row,
            carried=pa.concat_tables([chunk.carried for chunk in chunks]),
            bad=pa.concat_tables([chunk.bad for chunk in chunks]),
            left_out=sum(chunk.left_out for chunk in chunks),
            repeated=repeated,
            hashes=None if unit.first_texts is None else hashes_of(chunks),
            selection=selection,
            texts={model: facts[key] for model, key in encoding.items()},
        )
        tokens = {model: scored[key] for model, key in encoding.items()}
        prepared.append(Prepared(unit, len(row), tokens, passthrough))
    return prepared


def _asked_of(context: Context, units: Sequence[Unit]) -> tuple[Input, rows.Types]:
    """What is to be read; of texts that are scored for other units, no carried columns."""
    if units[0].first_texts is not None:
        return rows.texts_alone(context.job.input, context.types)
    return context.job.input, context.types


def _facts(tokens: Tokens) -> TextFacts:
    total = tokens.parts.sums if tokens.parts else np.asarray
    return TextFacts(
        n_tokens=total(tokens.lengths.astype(np.int32)),
        truncated=total(tokens.truncated),
        unknown=total(tokens.unknown),
        content=total(tokens.content),
        row=tokens.row,
        spans=tokens.spans,
        parts=tokens.parts,
    )


def _encode(
    context: Context, unit: Unit, chunks: list[rows.Chunk]
) -> tuple[list[rows.Chunk], dict[tuple[object, ...], Tokens]]:
    """The chunks' tokens, and the chunks without rows that have tokens a model has not.

    On a GPU one such token would end the process's use of it, for all rows.
    """
    chunks = _without_huge(context, unit, chunks)
    tokens = _tokens(context, chunks)
    reasons: dict[int, str] = {}
    for spec in context.specs.values():
        reasons |= _outside(tokens[spec.encoding], spec.vocabulary)
    if not reasons:
        return chunks, tokens
    left = _without(unit, chunks, reasons)
    return left, _tokens(context, left)


def _without(unit: Unit, chunks: list[rows.Chunk], reasons: dict[int, str]) -> list[rows.Chunk]:
    """The chunks without some rows, for these reasons by their place among all."""
    left, first = [], 0
    for span, chunk in zip(unit.spans, chunks, strict=True):
        here = {i: reasons[first + i] for i in range(len(chunk.row)) if first + i in reasons}
        left.append(rows.leave_out(chunk, span.source, here) if here else chunk)
        first += len(chunk.row)
    return left


def _without_huge(context: Context, unit: Unit, chunks: list[rows.Chunk]) -> list[rows.Chunk]:
    """The chunks without texts that are too long to be tokenized whole."""
    if all(spec.asked.long_text == "truncate" for spec in context.specs.values()):
        return chunks
    texts = (text for chunk in chunks for text in chunk.texts)
    reasons = {
        i: f"the text has {len(text):,} characters, and model.long_text takes up to {MOST_TEXT:,}"
        for i, text in enumerate(texts)
        if len(text) > MOST_TEXT
    }
    return _without(unit, chunks, reasons) if reasons else chunks


def _tokens(context: Context, chunks: list[rows.Chunk]) -> dict[tuple[object, ...], Tokens]:
    """The tokens of all texts, once for models that take the same."""
    texts = [text for chunk in chunks for text in chunk.texts]
    pair_texts = [text for chunk in chunks for text in chunk.pair_texts]
    pairs = pair_texts if context.job.input.text_pair else None
    made: dict[tuple[object, ...], Tokens] = {}
    for spec in context.specs.values():
        if spec.encoding in made:
            continue
        tokenizer = get_tokenizer(spec)
        made[spec.encoding] = (
            tokenizer.encode(texts, pairs)
            if spec.asked.plain
            else encode_rows(tokenizer, spec.asked, texts)
        )
    return made


def _outside(tokens: Tokens, vocabulary: int | None) -> dict[int, str]:
    """The rows with a token id that the model's table has not, and why that is wrong."""
    if vocabulary is None:
        return {}
    places = np.flatnonzero((tokens.ids < 0) | (tokens.ids >= vocabulary))
    of_rows = tokens.row[np.searchsorted(tokens.offsets, places, side="right") - 1]
    return {
        int(row): f"the tokenizer gives the token id {id_}, the model has {vocabulary} tokens"
        for row, id_ in zip(of_rows, tokens.ids[places], strict=True)
    }


def commit(
    context: Context,
    unit: Unit,
    passthrough: Passthrough,
    poison: Sequence[tuple[int, str]],
    pieces: Sequence[Mapping[str, Scored]],
) -> Record:
    """Writes a unit's predictions and quarantine, once.

    `pieces` hold the rows in order, without the `poison` ones (index, reason).
    """
    if not retry(context.output.is_here):
        raise RuntimeError(
            f"{context.output.path} is not the run's output on this node: it must be a folder that "
            "all nodes share"
        )
    if any(one.selection != passthrough.selection for piece in pieces for one in piece.values()):
        raise DataLost("its tokens were read when other stored answers were found")
    made = _predictions(context, passthrough, poison, pieces)
    counts, kept = made.counts, made.kept
    if unit.first_texts is not None:
        assert passthrough.hashes is not None
        scored = answer_table(context, passthrough, made.columns, kept)
        write_answers(context.output, unit.id, scored, passthrough.hashes, made.reasons)
        return Record(unit.id, True, counts)
    ids = [span.source.id for span in unit.spans]
    bad = [passthrough.bad, _poisoned(ids, passthrough, made.reasons)]
    carried = passthrough.carried
    columns = {
        "source": origin_column(ids, passthrough.source[kept]),
        "row": pa.array(passthrough.row[kept]),
        **{name: carried[name].filter(pa.array(kept)) for name in carried.column_names},
        **made.columns,
    }
    table = pa.table([columns[name] for name in context.schema.names], schema=context.schema)
    if (repeated := passthrough.repeated) is not None:
        bad.append(_poisoned(ids, repeated, repeated.reasons))
        table = with_stored(context, ids, table, repeated, counts)
    quarantined = pa.concat_tables(bad)
    counts.rows_quarantined, counts.rows_left_out = quarantined.num_rows, passthrough.left_out
    counts.reasons = Counter(map(rows.without_place, quarantined["reason"].to_pylist()))
    first = in_order(quarantined).slice(0, EXAMPLES).to_pydict()
    counts.quarantined = list(zip(*first.values(), strict=True))
    facts = {
        "tokens": counts.tokens,
        **({"rows_left_out": counts.rows_left_out} if counts.rows_left_out else {}),
        **({"rows_repeated": counts.rows_repeated} if counts.rows_repeated else {}),
        "labels": counts.labels,
    }
    side = of_models(made.aggregates) if made.aggregates else None
    result = protocol.commit(context.output, unit, table, quarantined, facts, side)
    if not result.ours:
        counts = counts_in(result.footer)
    return Record(unit.id, result.ours, counts)


@dataclass
class _Predictions:
    """`kept` bool [rows]: which rows have an answer; `reasons`, by place: why the others have none.

    `columns` has what is made of the answers, with an entry for each kept row. `aggregates` are
    the attention statistics of each model.
    """

    kept: np.ndarray
    reasons: dict[int, str]
    columns: dict[str, pa.Array]
    aggregates: dict[str, pa.Table] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)


def _predictions(
    context: Context,
    passthrough: Passthrough,
    poison: Sequence[tuple[int, str]],
    pieces: Sequence[Mapping[str, Scored]],
) -> _Predictions:
    """`pieces` hold the rows' answers in order, without the `poison` ones (index, reason)."""
    reasons = dict(poison)
    answered = np.ones(len(passthrough.row), bool)
    answered[list(reasons)] = False
    answers: dict[str, Answers] = {}
    for model, spec in context.specs.items():
        asked, row = spec.asked, passthrough.texts[model].row
        found = joined(
            [piece[model].answers for piece in pieces], task_of(spec).shape, asked.gives == "tokens"
        )
        for i in row[answered[row]][~found.finite(asked.embedding_type)].tolist():
            why = "the model's output is not a finite number"
            reasons.setdefault(i, f"{model}: {why}" if model else why)
        answers[model] = found
    kept = np.ones(len(passthrough.row), bool)
    kept[list(reasons)] = False
    made = _Predictions(kept, reasons, {})
    made.counts.rows_scored = int(kept.sum())
    attention = context.job.attention
    for model, spec in context.specs.items():
        texts, own = passthrough.texts[model], [piece[model] for piece in pieces]
        ours = kept[texts.row]
        answer = replace(
            answers[model].take(ours[answered[texts.row]]),
            spans=texts.spans and texts.spans.take(ours),
            parts=texts.parts and texts.parts.take(kept),
        )
        task = task_of(spec)
        columns = task.columns(answer)
        labelled = task.labelled(columns)
        said = {field.name: column for field, column in zip(task.fields, columns, strict=True)}
        said |= _lengths(texts, kept)
        if attention:
            by = attention.group_by
            grouping = None if by is None else passthrough.carried[by].filter(pa.array(kept))
            all_ = Rows(answered, kept, labelled, grouping)
            of_rows, made.aggregates[model] = unit_statistics(attention, spec, texts, all_, own)
            said |= of_rows
        made.columns |= {column_of(model, name): column for name, column in said.items()}
        _count(made.counts, model, texts, kept, own)
        made.counts.count_labels(model, labelled, made.counts.rows_scored)
    return made


def _lengths(texts: TextFacts, kept: np.ndarray) -> dict[str, pa.Array]:
    """How long the kept rows' texts are for a model, by column."""
    unknown = texts.unknown[kept] / np.maximum(texts.content[kept], 1)
    return {
        "n_tokens": pa.array(texts.n_tokens[kept]),
        "truncated": pa.array(texts.truncated[kept]),
        "unk_share": pa.array(unknown.astype(np.float32)),
    }


def _count(
    counts: Counts, model: str, texts: TextFacts, kept: np.ndarray, pieces: Sequence[Scored]
) -> None:
    """Counts a model's tokens of the kept rows."""
    counts.tokens += int(texts.n_tokens[kept].sum())
    counts.real_tokens += sum(piece.real_tokens for piece in pieces)
    counts.computed_tokens += sum(piece.computed_tokens for piece in pieces)
    counts.truncated[model] = int(texts.truncated[kept].sum())
    counts.unknown[model] = int(texts.unknown[kept].sum())
    counts.content[model] = int(texts.content[kept].sum())


def _poisoned(ids: Sequence[str], origin: Origin, reasons: dict[int, str]) -> pa.Table:
    """The quarantine rows of those that a model could not answer."""
    order = sorted(reasons)
    return rows.quarantine(
        [ids[origin.source[i]] for i in order],
        origin.row[order],
        [reasons[i] for i in order],
        origin.carried.take(pa.array(order, pa.int64())),
    )
