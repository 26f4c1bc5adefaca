"""A job file for some data, made by looking at its first rows."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from bertbatch.errors import JobError, SourceError
from bertbatch.inputs.folders import partitions
from bertbatch.inputs.formats.reader import CutSize, reader_of
from bertbatch.inputs.listing import Listing, list_sources
from bertbatch.inputs.rows import FIRST_BYTES, is_text, without_place
from bertbatch.job.schema import Job
from bertbatch.runtime.columns_probe import PROBED_SOURCES, is_value
from bertbatch.wording import counted

ROWS = 200  # that are looked at
TEXT_NAMES = (
    *("text", "body", "review", "content", "sentence", "comment", "message", "premise"),
    *("sentence1", "query", "question", "document"),
)
ID_NAMES = ("id", "uid", "uuid", "key", "index", "nr", "no", "number")
GOLD_NAMES = ("label", "labels", "gold", "class", "category", "sentiment", "stars", "rating")
OUTPUT_NAMES = ("source", "row", "label", "score", "scores", "n_tokens", "truncated", "unk_share")
PAIR_NAMES = (
    *(("premise", "hypothesis"), ("sentence1", "sentence2"), ("text", "text_pair")),
    *(("question", "answer"), ("question", "context"), ("query", "passage"), ("query", "document")),
)
FEW_VALUES = 20
DELIMITERS = ";\t|"
ENCODING = "is it in another encoding (input.csv.encoding)?"
HEADERLESS = (
    "# Is the first line a row, not a header? Then input needs csv: {header: false}, which names",
    "# the columns c0, c1 and so on.",
)
_JAPANESE = re.compile("[\u3040-\u30ff]")
_PLAIN = re.compile(r"[A-Za-z_][\w./ -]*")  # needs no quotes in YAML


@dataclass
class _First:
    """The first rows of a source: those that can be read, by column, and why others cannot."""

    columns: list["_Column"]
    rows: int = 0
    bad: list[str] = field(default_factory=list)

    @property
    def unreadable(self) -> str:
        """A sentence on rows that cannot be read; empty if all can."""
        if not self.bad:
            return ""
        ((reason, _),) = Counter(self.bad).most_common(1)
        rows = counted(self.rows + len(self.bad), "row")
        return f"{len(self.bad):,} of the first {rows} cannot be read: {without_place(reason)}"


@dataclass
class _Column:
    """What the first rows have in one column."""

    name: str
    kind: pa.DataType
    values: list[object]

    @property
    def texts(self) -> list[str]:
        return [value for value in self.values if isinstance(value, str)]

    @property
    def mean_length(self) -> float:
        return sum(map(len, self.texts)) / max(len(self.texts), 1)

    @property
    def distinct(self) -> int:
        return len({str(value) for value in self.values if value is not None})


def draft(input_: str) -> str:
    """The text of a job file that scores the input.

    Raises JobError if the input cannot be read, or has no column of text.
    """
    job = _job(input_)
    listing = list_sources(job)
    first = _first(job, listing)
    columns = first.columns
    if listing.format == "csv" and len(columns) == 1:
        for delimiter in DELIMITERS:
            other = _job(input_, delimiter)
            if delimiter in columns[0].name and len((more := _first(other, listing)).columns) > 1:
                job, first, columns = other, more, more.columns
                break
    text = _text_column(columns)
    if text is None:
        if first.unreadable:
            raise JobError(f"{input_}: {first.unreadable}; {ENCODING}")
        have = ", ".join(f"{column.name} ({column.kind})" for column in columns)
        raise JobError(f"{input_} has no column of text; it has: {have}")
    carried = [_carried(column) for column in _worth_carrying(columns, text)]
    lines = [
        f"# {counted(len(listing.sources), 'file')} of {listing.format}. Columns: "
        + _named([column.name for column in columns]),
        *([f"# {first.unreadable}; {ENCODING}"] if first.unreadable else []),
        *(HEADERLESS if listing.format == "csv" and any(is_value(c.name) for c in columns) else []),
        "# `bertbatch plan JOB` says what this job would do, `bertbatch run JOB` runs it.",
        "# `bertbatch schema > job.schema.json` gives what the next line asks an editor to use.",
        "# yaml-language-server: $schema=job.schema.json",
        "input:",
        f"  path: {_yaml(input_)}",
    ]
    if listing.format != "text":
        lines.append(f"  text: {_yaml(text.name)}{_why(text, columns)}")
    if pair := _pair(text, columns):
        lines.append(f"  # text_pair: {_yaml(pair)}  # for models that score pairs")
    if "delimiter" in job.input.csv.model_fields_set:
        lines.append(f"  csv: {{delimiter: {json.dumps(job.input.csv.delimiter)}}}")
    lines += [
        f"  carry: [{', '.join(map(_yaml, carried))}]  # copied to the output; '*' copies all",
        "  # limit: 1000  # for a first try, with another output.path",
        "output:",
        f"  path: {_yaml(job.output.path)}",
        "model:",
        f"  name: sentiment-mini  # {_model_note(text)}",
        "  # long_text: windows  # score all of texts that are longer than the model takes",
        "# attention: {}  # statistics of every attention head",
    ]
    return "\n".join(lines) + "\n"


def _job(input_: str, delimiter: str | None = None) -> Job:
    csv = {} if delimiter is None else {"csv": {"delimiter": delimiter}}
    data = {"input": {"path": input_, **csv}, "output": {"path": _output(input_)}}
    return Job.build(data, "init")


def _output(input_: str) -> str:
    """A folder beside nothing else: named after the input, in the current folder."""
    stem = Path(re.split(r"[*?\[]", input_)[0].rstrip("/")).name.split(".")[0]
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', stem).strip('-') or 'input'}-predictions"


def _first(job: Job, listing: Listing) -> _First:
    """What the first source that can be read begins with."""
    reader = reader_of(listing.format)
    problem = "the files have no rows"
    for source in listing.sources[:PROBED_SOURCES]:
        try:
            schema = reader.schema(source, job.input)
            # Arrow's cuts are counted by a column that is there.
            options = job.input.model_copy(update={"text": next(iter(schema.names), "text")})
            for cut in reader.cut(source, CutSize(FIRST_BYTES, FIRST_BYTES, ROWS), options):
                kinds = {f.name: None if is_text(f.type) else f.type for f in schema}
                read = next(iter(reader.read(source, [cut], kinds, options)))
                found = [
                    _Column(each.name, each.type, read.table[each.name].to_pylist())
                    for each in schema
                    if each.name in read.table.column_names
                ]
                folders = partitions(source).items()
                found += [_Column(name, pa.string(), [value]) for name, value in folders]
                return _First(found, len(read.row), [why for _, why in read.bad])
        except (SourceError, pa.ArrowException, UnicodeDecodeError) as error:
            problem = str(error)
    raise JobError(f"{job.input.path}: nothing can be said of it: {problem}")


def _text_column(columns: Sequence[_Column]) -> _Column | None:
    """The column that looks most like texts: by its name, else the longest texts."""
    texts = [column for column in columns if is_text(column.kind) and column.texts]
    by_name = [c for name in TEXT_NAMES for c in texts if c.name.lower() == name]
    longest = sorted(texts, key=lambda column: -column.mean_length)
    return next(iter([*by_name, *longest]), None)


def _worth_carrying(columns: Sequence[_Column], text: _Column) -> list[_Column]:
    """Keys and gold labels."""

    def wanted(column: _Column) -> bool:
        words = {*re.split(r"[^a-z0-9]+", column.name.lower())}
        if column is text or pa.types.is_nested(column.kind):
            return False
        if words & {*ID_NAMES}:
            return column.distinct == len({i for i, v in enumerate(column.values) if v is not None})
        few = min(FEW_VALUES, max(len(column.values), 1))
        return bool(words & {*GOLD_NAMES}) and column.distinct <= few

    return [column for column in columns if wanted(column)]


def _carried(column: _Column) -> str:
    """As `input.carry` names it: a column that the output has itself gets another name."""
    return f"{column.name}:gold" if column.name in OUTPUT_NAMES else column.name


def _pair(text: _Column, columns: Sequence[_Column]) -> str | None:
    """The column whose text goes with the texts, if the names say so."""
    second = [pair[1] for pair in PAIR_NAMES if pair[0] == text.name.lower()]
    return next((c.name for c in columns if c.name.lower() in second), None)


def _why(text: _Column, columns: Sequence[_Column]) -> str:
    others = [c.name for c in columns if c is not text and is_text(c.kind) and c.texts]
    more = (
        f"; other columns of text: {json.dumps(others, ensure_ascii=False)[1:-1]}" if others else ""
    )
    return f"  # about {text.mean_length:,.0f} characters each{more}"


def _named(names: Sequence[str]) -> str:
    """Names for a comment: without their line ends."""
    return ", ".join(" ".join(name.split()) for name in names)


def _model_note(text: _Column) -> str:
    japanese = sum(bool(_JAPANESE.search(one)) for one in text.texts)
    if 2 * japanese > len(text.texts):
        return "is for English, and this looks like Japanese: name a folder or a Hub id"
    return "packaged: English, positive or negative; or a folder, a URL, a Hub id"


def _yaml(value: str) -> str:
    """A string as YAML has it, in quotes where it needs them."""
    plain = _PLAIN.fullmatch(value) and value.lower() not in ("yes", "no", "true", "false", "null")
    return value if plain else json.dumps(value, ensure_ascii=False)
