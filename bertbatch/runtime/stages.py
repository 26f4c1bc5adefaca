"""The stages of a unit around the model: reading with tokenizing, then the commit.

Each is a plain function of its arguments with a `Context`. Executors call them, and decide only
where they run.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from bertbatch.attention.aggregates import (
    ALL,
    COLUMN,
    LABEL,
    Group,
    aggregate,
    length_groups,
    value_groups,
)
from bertbatch.attention.row_columns import attention_columns, attention_fields, of_pieces, of_rows
from bertbatch.attention.sample import sampled
from bertbatch.engines import probe_texts
from bertbatch.engines.probe import Probe
from bertbatch.engines.scoring import Scored
from bertbatch.inputs import rows
from bertbatch.inputs.formats.reader import reader_of
from bertbatch.job.schema import Attention
from bertbatch.model.sequences import check_room, encode_rows
from bertbatch.model.spans import Spans
from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokenizer import get_tokenizer
from bertbatch.model.tokens import Parts, Tokens, joined
from bertbatch.output import commit as protocol
from bertbatch.runtime.context import Context
from bertbatch.runtime.counts import Counts, Record
from bertbatch.statistics.statistic import make_statistics
from bertbatch.storage.retry import retry
from bertbatch.tasks.task import task_of
from bertbatch.units import Unit

MOST_TEXT = 1 << 22  # characters of a text that is tokenized whole, which takes 200 bytes for each
SAMPLED_ROWS = 256  # read for texts that a quantized model is compared on


@dataclass
class Passthrough:
    """What of a unit need not pass the model, and goes from the reader to the commit.

    Arrays and `carried` have an entry for each row to score, `bad` one for each other row. `parts`:
    which sequences of tokens are each row's, None if each is one; `spans` are of the sequences.
    """

    source: np.ndarray  # int32, index into the unit's spans
    row: np.ndarray  # int64, number in the source
    n_tokens: np.ndarray
    truncated: np.ndarray
    unknown: np.ndarray
    content: np.ndarray
    carried: pa.Table
    bad: pa.Table
    spans: Spans | None = None
    parts: Parts | None = None

    @property
    def row_of(self) -> np.ndarray:
        """The row of each sequence, int64 [sequences]."""
        return self.parts.row if self.parts else np.arange(len(self.row))

    def sequences(self, rows: np.ndarray) -> np.ndarray:
        """Whether each sequence is one of these rows', bool for each."""
        return np.asarray(rows[self.row_of])


@dataclass
class Prepared:
    """A unit ready to be scored."""

    unit: Unit
    tokens: Tokens
    passthrough: Passthrough

    @property
    def sequences(self) -> int:
        """Sequences to score: one for each row, or several."""
        return len(self.tokens.offsets) - 1


def make_probe(context: Context) -> Probe:
    """What the model is tried on before it scores. Raises JobError if there is no tokenizer."""
    options, sample = context.job.input, None
    if context.spec.quantization:
        sample = []
        if context.first is not None:
            reader = reader_of(context.format)
            sample = rows.first_texts(reader, options, context.first, SAMPLED_ROWS)
    spec, pair = context.spec, options.text_pair is not None
    tokenizer = get_tokenizer(spec)
    if not spec.asked.plain:
        check_room(tokenizer, spec.asked)
    return probe_texts.make_probe(tokenizer, spec.max_length, pair, sample)


def read_and_tokenize(context: Context, units: Sequence[Unit]) -> list[Prepared]:
    """The units of one read task, in order: all of them, or SourceError."""
    prepared = []
    reader, options = reader_of(context.format), context.job.input
    for unit, read in rows.read_units(reader, options, context.schema, units, context.rules):
        chunks, tokens, parts = _encode(context, unit, read)
        source = np.repeat(
            np.arange(len(chunks), dtype=np.int32), [len(chunk.texts) for chunk in chunks]
        )
        row = np.concatenate([chunk.row for chunk in chunks])
        if attention := context.job.attention:
            ids = [span.source.id for span in unit.spans]
            chosen = sampled(ids, source, row, attention.sample)
            tokens = replace(tokens, sampled=chosen[parts.row] if parts else chosen)
        total = parts.sums if parts else np.asarray
        passthrough = Passthrough(
            source=source,
            row=row,
            n_tokens=total(tokens.lengths.astype(np.int32)),
            truncated=total(tokens.truncated),
            unknown=total(tokens.unknown),
            content=total(tokens.content),
            carried=pa.concat_tables([chunk.carried for chunk in chunks]),
            bad=pa.concat_tables([chunk.bad for chunk in chunks]),
            spans=tokens.spans,
            parts=parts,
        )
        prepared.append(Prepared(unit, replace(tokens, spans=None), passthrough))
    return prepared


def _encode(
    context: Context, unit: Unit, chunks: list[rows.Chunk]
) -> tuple[list[rows.Chunk], Tokens, Parts | None]:
    """The chunks' tokens, and the chunks without rows that have tokens the model has not.

    On a GPU one such token would end the process's use of it, for all rows.
    """
    chunks = _without_huge(context, unit, chunks)
    tokens, parts = _tokens(context, chunks)
    reasons = _outside(tokens, parts, context.spec.vocabulary)
    if not reasons:
        return chunks, tokens, parts
    left = _without(unit, chunks, reasons)
    return left, *_tokens(context, left)


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
    if context.spec.asked.long_text == "truncate":
        return chunks
    texts = (text for chunk in chunks for text in chunk.texts)
    reasons = {
        i: f"the text has {len(text):,} characters, and model.long_text takes up to {MOST_TEXT:,}"
        for i, text in enumerate(texts)
        if len(text) > MOST_TEXT
    }
    return _without(unit, chunks, reasons) if reasons else chunks


def _tokens(context: Context, chunks: list[rows.Chunk]) -> tuple[Tokens, Parts | None]:
    texts = [text for chunk in chunks for text in chunk.texts]
    pair_texts = [text for chunk in chunks for text in chunk.pair_texts]
    tokenizer = get_tokenizer(context.spec)
    pairs = pair_texts if context.job.input.text_pair else None
    if context.spec.asked.plain:
        return tokenizer.encode(texts, pairs), None
    return encode_rows(tokenizer, context.spec.asked, texts)


def _outside(tokens: Tokens, parts: Parts | None, vocabulary: int | None) -> dict[int, str]:
    """The rows with a token id that the model's table has not, and why that is wrong."""
    if vocabulary is None:
        return {}
    places = np.flatnonzero((tokens.ids < 0) | (tokens.ids >= vocabulary))
    rows = np.searchsorted(tokens.offsets, places, side="right") - 1
    rows = parts.row[rows] if parts else rows
    return {
        int(row): f"the tokenizer gives the token id {id_}, the model has {vocabulary} tokens"
        for row, id_ in zip(rows, tokens.ids[places], strict=True)
    }


def commit(
    context: Context,
    unit: Unit,
    passthrough: Passthrough,
    poison: Sequence[tuple[int, str]],
    pieces: Sequence[Scored],
) -> Record:
    """Writes a unit's predictions and quarantine, once.

    `pieces` hold the sequences in order, without the `poison` ones (index, reason).
    """
    if not retry(context.output.is_here):
        raise RuntimeError(
            f"{context.output.path} is not the run's output on this node: it must be a folder that "
            "all nodes share"
        )
    task, attention = task_of(context.spec), context.job.attention
    row_of = passthrough.row_of
    reasons = {int(row_of[i]): why for i, why in poison}
    answered = np.ones(len(row_of), bool)
    answered[[i for i, _ in poison]] = False
    statistics = None
    if attention:
        heads = context.spec.layers * context.spec.heads
        statistics = of_pieces(pieces, answered, (len(attention.statistics), heads))
    asked = context.spec.asked
    answers = joined([piece.answers for piece in pieces], task.shape, asked.gives == "tokens")
    for row in row_of[answered][~answers.finite(asked.embedding_type)].tolist():
        reasons.setdefault(row, "the model's output is not a finite number")
    kept = np.ones(len(passthrough.row), bool)
    kept[list(reasons)] = False
    ours = passthrough.sequences(kept)
    bad = pa.concat_tables([passthrough.bad, _poisoned(unit, passthrough, reasons)])

    answers = replace(
        answers.take(ours[answered]),
        spans=passthrough.spans and passthrough.spans.take(ours),
        parts=passthrough.parts and passthrough.parts.take(kept),
    )
    said = task.columns(answers)
    labelled = task.labelled(said)
    columns = _columns(unit, passthrough, kept, said)
    aggregates = None
    if attention and statistics:
        statistics = replace(statistics, text=statistics.text[ours])
        if answers.parts:
            statistics = of_rows(statistics, answers.parts)
        columns += attention_columns(attention_fields(attention, context.spec), statistics)
        groups = _groups(passthrough, kept, labelled, attention.group_by)
        tops = [s.most(context.spec.max_length) for s in make_statistics(attention.statistics)]
        aggregates = aggregate(attention.statistics, tops, statistics, groups)
    predictions = pa.table(columns, schema=context.schema)
    counts = _count(passthrough, kept, pieces)
    counts.rows_quarantined = bad.num_rows
    counts.reasons = Counter(bad.column("reason").to_pylist())
    if labelled:
        counts.unlabelled = counts.rows_scored - len(np.unique(labelled[0]))
        for item in labelled[1].value_counts().to_pylist():
            counts.labels[item["values"]] += item["counts"]
    facts = {"tokens": counts.tokens}
    result = protocol.commit(context.output, unit, predictions, bad, facts, aggregates)
    if not result.ours:
        theirs = result.footer
        counts = Counts(theirs["rows_scored"], theirs["rows_quarantined"])
    return Record(unit.id, result.ours, counts)


def _columns(
    unit: Unit, passthrough: Passthrough, kept: np.ndarray, answered: Sequence[pa.Array]
) -> list[pa.Array]:
    """The columns of the kept rows, in the order of `output_schema`, without the attention's."""
    ids = [span.source.id for span in unit.spans]
    unknown = passthrough.unknown[kept] / np.maximum(passthrough.content[kept], 1)
    return [
        pa.DictionaryArray.from_arrays(passthrough.source[kept], pa.array(ids, pa.string())),
        pa.array(passthrough.row[kept]),
        *[column.filter(pa.array(kept)) for column in passthrough.carried.columns],
        *answered,
        pa.array(passthrough.n_tokens[kept]),
        pa.array(passthrough.truncated[kept]),
        pa.array(unknown.astype(np.float32)),
    ]


def _count(passthrough: Passthrough, kept: np.ndarray, pieces: Sequence[Scored]) -> Counts:
    """The kept rows' counts."""
    return Counts(
        rows_scored=int(kept.sum()),
        tokens=int(passthrough.n_tokens[kept].sum()),
        real_tokens=sum(piece.real_tokens for piece in pieces),
        computed_tokens=sum(piece.computed_tokens for piece in pieces),
        truncated=int(passthrough.truncated[kept].sum()),
        unknown=int(passthrough.unknown[kept].sum()),
        content=int(passthrough.content[kept].sum()),
    )


def output_schema(spec: ModelSpec, carried: pa.Schema, attention: Attention | None) -> pa.Schema:
    """The schema of every part: where a row is from, what it carries, what the model says."""
    return pa.schema(
        [
            pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            pa.field("row", pa.int64(), nullable=False),
            *carried,
            *task_of(spec).fields,
            pa.field("n_tokens", pa.int32(), nullable=False),
            pa.field("truncated", pa.bool_(), nullable=False),
            pa.field("unk_share", pa.float32(), nullable=False),
            *attention_fields(attention, spec),
        ]
    )


def _groups(
    passthrough: Passthrough,
    kept: np.ndarray,
    labelled: tuple[np.ndarray, pa.Array] | None,
    by: str | None,
) -> list[Group]:
    """The groups that kept rows are in: all, by length, by label, by a carried column."""
    count = int(kept.sum())
    groups = [Group(ALL, "", np.ones(count, bool)), *length_groups(passthrough.n_tokens[kept])]
    if labelled:
        groups += value_groups(LABEL, *labelled, count)
    if by is not None:
        values = passthrough.carried.column(by).filter(pa.array(kept))
        groups += value_groups(COLUMN, np.arange(count), values, count)
    return groups


def _poisoned(unit: Unit, passthrough: Passthrough, reasons: dict[int, str]) -> pa.Table:
    """The quarantine rows of those that the model could not answer."""
    order = sorted(reasons)
    return rows.quarantine(
        [unit.spans[passthrough.source[i]].source.id for i in order],
        passthrough.row[order],
        [reasons[i] for i in order],
        passthrough.carried.take(pa.array(order, pa.int64())),
    )
