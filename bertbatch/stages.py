"""The three stages of every unit: read and tokenize, score, commit.

Each is a plain function of its arguments and a `Context`; both runners call these and add
nothing but where they run.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import pyarrow as pa

from bertbatch import commit as protocol
from bertbatch import scoring, storage
from bertbatch.engines import Engine
from bertbatch.errors import SourceError
from bertbatch.job import Job
from bertbatch.model import ModelSpec
from bertbatch.output import Output
from bertbatch.readers import Rows, readers
from bertbatch.scoring import Scored
from bertbatch.sources import partitions
from bertbatch.tasks import task_of
from bertbatch.tokenizer import Tokens, get_tokenizer
from bertbatch.units import Source, Unit


@dataclass(frozen=True)
class Context:
    """What every stage needs to know of the run; sent to each worker once."""

    job: Job
    spec: ModelSpec
    output: Output
    format: str
    schema: pa.Schema  # of the output


@dataclass
class Aside:
    """What of a unit need not pass the model, and goes from the reader to the commit.

    Arrays and `carried` have an entry for each row to score, `bad` one for each other row.
    """

    source: np.ndarray  # int32, index into the unit's spans
    row: np.ndarray  # int64, number in the source
    n_tokens: np.ndarray
    truncated: np.ndarray
    unknown: np.ndarray
    content: np.ndarray
    carried: pa.Table
    bad: pa.Table


@dataclass
class Prepared:
    """A unit ready to be scored."""

    unit: Unit
    tokens: Tokens
    aside: Aside

    @property
    def rows(self) -> int:
        """Rows to score."""
        return len(self.aside.row)


@dataclass
class Record:
    """What became of a unit: the only thing about it that reaches the driver."""

    unit: str
    ours: bool  # False: another run had committed it first
    rows_scored: int
    rows_quarantined: int
    tokens: int = 0
    real_tokens: int = 0
    computed_tokens: int = 0
    truncated: int = 0
    unknown: int = 0
    content: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def rows(self) -> int:
        return self.rows_scored + self.rows_quarantined


def read_and_tokenize(context: Context, units: Sequence[Unit]) -> list[Prepared]:
    """The units of one read task, in order: all of them, or SourceError."""
    tokenizer = get_tokenizer(context.spec)
    prepared = []
    for unit, chunks in _read(context, units):
        texts = [text for chunk in chunks for text in chunk.texts]
        tokens = tokenizer.encode(texts)
        aside = Aside(
            source=np.repeat(
                np.arange(len(chunks), dtype=np.int32), [len(chunk.texts) for chunk in chunks]
            ),
            row=np.concatenate([chunk.row for chunk in chunks]),
            n_tokens=tokens.lengths.astype(np.int32),
            truncated=tokens.truncated,
            unknown=tokens.unknown,
            content=tokens.content,
            carried=pa.concat_tables([chunk.carried for chunk in chunks]),
            bad=pa.concat_tables([chunk.bad for chunk in chunks]),
        )
        prepared.append(Prepared(unit, tokens, aside))
    return prepared


def score(
    context: Context,
    engine: Engine,
    tokens: Tokens,
    first: int,
    stop: int,
    go_on: Callable[[], None] = lambda: None,
) -> Scored:
    """Scores rows of a prepared unit."""
    return scoring.score(engine, tokens, first, stop, context.spec.pad_id, go_on)


def commit(
    context: Context,
    unit: Unit,
    aside: Aside,
    poison: Sequence[tuple[int, str]],
    pieces: Sequence[Scored],
) -> Record:
    """Writes a unit's predictions and quarantine, once.

    `pieces` hold the rows in order, without the `poison` ones (row index, reason).
    """
    task = task_of(context.spec)
    kept = np.ones(len(aside.row), bool)
    reasons = dict(poison)
    kept[list(reasons)] = False
    logits = np.zeros((len(kept), len(context.spec.labels)), np.float32)
    if pieces:
        filled = [piece.logits for piece in pieces if len(piece.logits)]
        if filled:
            logits[kept] = np.concatenate(filled)
    for index in np.flatnonzero(kept & ~np.isfinite(logits).all(axis=1)):
        reasons[int(index)] = "the model's output is not a finite number"
    kept[list(reasons)] = False
    bad = pa.concat_tables([aside.bad, _poisoned(unit, aside, reasons)])

    ids = [span.source.id for span in unit.spans]
    answers = task.columns(logits[kept])
    columns = [
        pa.DictionaryArray.from_arrays(aside.source[kept], pa.array(ids, pa.string())),
        pa.array(aside.row[kept]),
        *[column.filter(pa.array(kept)) for column in aside.carried.columns],
        *answers,
        pa.array(aside.n_tokens[kept]),
        pa.array(aside.truncated[kept]),
        pa.array((aside.unknown[kept] / np.maximum(aside.content[kept], 1)).astype(np.float32)),
    ]
    predictions = pa.table(columns, schema=context.schema)
    tokens = int(aside.n_tokens[kept].sum())
    result = protocol.commit(context.output, unit, predictions, bad, {"tokens": tokens})
    record = Record(
        unit.id,
        result.ours,
        result.footer["rows_scored"],
        result.footer["rows_quarantined"],
        result.footer.get("tokens", 0),
    )
    if result.ours:
        record.real_tokens = sum(piece.real_tokens for piece in pieces)
        record.computed_tokens = sum(piece.computed_tokens for piece in pieces)
        record.truncated = int(aside.truncated[kept].sum())
        record.unknown = int(aside.unknown[kept].sum())
        record.content = int(aside.content[kept].sum())
        counted = task.counted(answers)
        if counted is not None:
            for item in counted.value_counts().to_pylist():
                record.labels[item["values"]] += item["counts"]
        record.reasons = Counter(bad.column("reason").to_pylist())
    return record


def output_schema(spec: ModelSpec, carried: pa.Schema) -> pa.Schema:
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
        ]
    )


def carried_schema(job: Job, source: Source, schema: pa.Schema) -> pa.Schema:
    """The carried columns' fields, under their output names. Raises SourceError if one lacks."""
    folders = partitions(source)
    fields = []
    for new, old in job.input.carried.items():
        if old not in folders and old not in schema.names:
            have = ", ".join([*schema.names, *folders])
            raise SourceError(source.id, f"has no column '{old}' to carry; it has: {have}")
        fields.append(pa.field(new, pa.string() if old in folders else schema.field(old).type))
    return pa.schema(fields)


@dataclass
class _Chunk:
    """The rows of one span: those to score, and the bad ones as a quarantine table."""

    texts: list[str]
    row: np.ndarray
    carried: pa.Table
    bad: pa.Table


def _read(context: Context, units: Sequence[Unit]) -> Iterator[tuple[Unit, list[_Chunk]]]:
    """Reads each run of spans of one source in one go, and gives them out unit by unit."""
    reader = readers()[context.format]
    options = context.job.input
    spans = [(unit, span) for unit in units for span in unit.spans]
    collected: list[_Chunk] = []
    for _, run in groupby(spans, key=lambda pair: pair[1].source.id):
        pairs = list(run)
        source = pairs[0][1].source
        _check_unchanged(source, context)
        in_file = [c for c in options.carried.values() if c not in partitions(source)]
        columns = list(dict.fromkeys([options.text, *in_file]))
        rows_of_cuts = reader.read(source, [span.cut for _, span in pairs], columns, options)
        for (unit, span), rows in zip(pairs, rows_of_cuts, strict=True):
            collected.append(_chunk(context, source, rows))
            if span is unit.spans[-1]:
                yield unit, collected
                collected = []
        _check_unchanged(source, context)


def _check_unchanged(source: Source, context: Context) -> None:
    """Raises SourceError if the file is no longer the one that was planned."""
    store, path = storage.connect(source.url, context.job.input.storage_options)
    try:
        now = store.info(path)
    except OSError as error:
        raise SourceError(source.id, f"cannot be opened: {error}") from error
    if (now.size, now.stamp) != (source.size, source.stamp):
        raise SourceError(source.id, "has changed since it was planned")


def _chunk(context: Context, source: Source, rows: Rows) -> _Chunk:
    options = context.job.input
    carried = _carried(context, source, rows.table)
    texts, reasons = _texts(rows.table.column(options.text))
    bad_rows = np.array([row for row, _ in rows.bad], np.int64)
    unreadable = carried.schema.empty_table()
    if len(bad_rows):
        unreadable = pa.table(
            [pa.nulls(len(bad_rows), f.type) for f in carried.schema], carried.schema
        )
    unreadable = _quarantine(
        [source.id] * len(bad_rows), bad_rows, [reason for _, reason in rows.bad], unreadable
    )
    if not reasons:
        empty = _quarantine([], rows.row[:0], [], carried.slice(0, 0))
        return _Chunk(texts, rows.row, carried, pa.concat_tables([empty, unreadable]))
    kept = np.ones(len(texts), bool)
    kept[list(reasons)] = False
    unscorable = _quarantine(
        [source.id] * len(reasons),
        rows.row[~kept],
        [reasons[i] for i in sorted(reasons)],
        carried.filter(pa.array(~kept)),
    )
    return _Chunk(
        [text for text, keep in zip(texts, kept, strict=True) if keep],
        rows.row[kept],
        carried.filter(pa.array(kept)),
        pa.concat_tables([unscorable, unreadable]),
    )


def _carried(context: Context, source: Source, table: pa.Table) -> pa.Table:
    """The carried columns under their output names and types. Raises SourceError."""
    folders = partitions(source)
    columns, fields = [], []
    for new, old in context.job.input.carried.items():
        field = context.schema.field(new)
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


def _texts(column: pa.ChunkedArray) -> tuple[list[str], dict[int, str]]:
    """The texts, and for each position that cannot be scored the reason."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not is_text(kind):
        return [""] * len(column), dict.fromkeys(
            range(len(column)), f"text is {kind}, not a string"
        )
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        values = [_decode(value) for value in column.cast(pa.large_binary()).to_pylist()]
    reasons: dict[int, str] = {}
    for i, value in enumerate(values):
        if not isinstance(value, str):
            reasons[i] = "text is null" if value is None else "text is not valid UTF-8"
            values[i] = ""
    return values, reasons


def is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _decode(value: bytes | None) -> str | bytes | None:
    try:
        return value.decode() if value is not None else None
    except UnicodeDecodeError:
        return value


def _quarantine(
    sources: list[str], rows: np.ndarray, reasons: list[str], carried: pa.Table
) -> pa.Table:
    """Rows of the quarantine file: source, row, reason, the carried columns."""
    columns = [pa.array(sources, pa.string()), pa.array(rows, pa.int64())]
    fields = [pa.field("source", pa.string()), pa.field("row", pa.int64())]
    return pa.table(
        [*columns, pa.array(reasons, pa.string()), *carried.columns],
        schema=pa.schema([*fields, pa.field("reason", pa.string()), *carried.schema]),
    )


def _poisoned(unit: Unit, aside: Aside, reasons: dict[int, str]) -> pa.Table:
    """The quarantine rows of those that the model could not answer."""
    order = sorted(reasons)
    return _quarantine(
        [unit.spans[aside.source[i]].source.id for i in order],
        aside.row[order],
        [reasons[i] for i in order],
        aside.carried.take(pa.array(order, pa.int64())),
    )
