"""Every type of Arrow as text and as a carried column: its values as they are, or a sentence."""

import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertbatch.errors import SourceError
from bertbatch.inputs.formats.parquet import ParquetReader
from bertbatch.inputs.formats.reader import CutSize
from bertbatch.inputs.rows import Types, is_text, read_units
from bertbatch.inputs.typed_columns import column_types
from bertbatch.job.input import Input
from bertbatch.output.contract import RULES
from bertbatch.output.part import FOOTER_KEY, encode_part, encode_side
from bertbatch.storage.stores import connect
from bertbatch.units import Source, Span, Unit

INTS = st.integers(-100, 100)
MOMENTS = st.integers(-(2**35), 2**35)  # in seconds these are years that Python knows
TEXTS = st.text(st.characters(codec="utf-8"), max_size=5)
PLAIN: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.null(), st.none()), (pa.bool_(), st.booleans()),
    *((kind(), INTS) for kind in (pa.int8, pa.int16, pa.int32, pa.int64)),
    *((kind(), st.integers(0, 200)) for kind in (pa.uint8, pa.uint16, pa.uint32, pa.uint64)),
    (pa.uint64(), st.just(2**64 - 1)),
    (pa.float16(), st.floats(width=16, allow_nan=False)),
    (pa.float32(), st.floats(width=32, allow_nan=False)),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.string(), TEXTS), (pa.large_string(), TEXTS), (pa.string_view(), TEXTS),
    (pa.binary(), st.binary(max_size=5)), (pa.large_binary(), st.binary(max_size=5)),
    (pa.binary_view(), st.binary(max_size=5)), (pa.binary(3), st.binary(min_size=3, max_size=3)),
    (pa.date32(), st.dates()), (pa.date64(), st.dates()),
    (pa.time32("s"), INTS.map(abs)), (pa.time32("ms"), INTS.map(abs)),
    (pa.time64("us"), INTS.map(abs)), (pa.time64("ns"), INTS.map(abs)),
    *((pa.timestamp(unit, zone), MOMENTS)
      for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Asia/Tokyo", "+03:00")),
    *((pa.duration(unit), MOMENTS) for unit in ("s", "ms", "us", "ns")),
    (pa.month_day_nano_interval(), st.just(pa.MonthDayNano([1, 2, 3]))),
    *((kind(8, 2), st.integers(-(10**7), 10**7).map(lambda n: decimal.Decimal(n).scaleb(-2)))
      for kind in (pa.decimal32, pa.decimal64, pa.decimal128, pa.decimal256)),
    (pa.uuid(), st.uuids().map(lambda u: u.bytes)), (pa.json_(), st.just('{"a": 1}')),
    (pa.bool8(), st.integers(0, 1)),
    (pa.dictionary(pa.int8(), pa.string()), TEXTS),
    (pa.dictionary(pa.int32(), pa.large_string()), TEXTS),
    (pa.dictionary(pa.int16(), pa.int64()), INTS),
    (pa.dictionary(pa.int32(), pa.string(), ordered=True), TEXTS),
]  # fmt: skip


def nested(kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def lists(pair: Any) -> Any:
        kind, values = pair
        return st.sampled_from(
            [
                (pa.list_(kind), st.lists(values, max_size=3)),
                (pa.large_list(kind), st.lists(values, max_size=3)),
                (pa.list_view(kind), st.lists(values, max_size=3)),
                (pa.large_list_view(kind), st.lists(values, max_size=3)),
                (pa.list_(kind, 2), st.lists(values, min_size=2, max_size=2)),
                (pa.struct([("a", kind), ("b c", pa.int8())]),
                 st.fixed_dictionaries({"a": values, "b c": INTS})),
                (pa.map_(pa.string(), kind), st.lists(st.tuples(TEXTS, values), max_size=2)),
            ]
        )  # fmt: skip

    return kinds.flatmap(lists)


KINDS = st.recursive(st.sampled_from(PLAIN), nested, max_leaves=2)


@st.composite
def columns(draw: Any) -> pa.Array:
    kind, values = draw(KINDS)
    rows = draw(st.lists(st.none() | values, min_size=1, max_size=5))
    try:
        return pa.array(rows, kind)
    except (pa.ArrowException, TypeError, ValueError):
        try:
            storage = getattr(kind, "storage_type", None) or getattr(kind, "value_type", None)
            plain = pa.array(rows, storage)
            if isinstance(kind, pa.BaseExtensionType):
                return pa.ExtensionArray.from_storage(kind, plain)
            return plain.cast(kind)
        except (pa.ArrowException, TypeError, ValueError):
            return pa.array([None] * len(rows), pa.null())


def written(folder: Path, column: pa.Array, schema: bool) -> Path | None:
    """A file with the column; None if Parquet cannot hold it."""
    path = folder / "in.parquet"
    table = pa.table({"odd": column, "text": ["x"] * len(column)})
    try:
        pq.write_table(table, path, store_schema=schema)
        pq.read_table(path)
    except (pa.ArrowException, NotImplementedError, OSError):
        return None
    return path


def source_of(path: Path) -> Source:
    store, name = connect(str(path))
    info = store.info(name)
    return Source(path.name, name, info.size, info.stamp)


def read(path: Path, **keys: Any) -> tuple[pa.Table, list[str], list[tuple[int, str]]]:
    """The carried columns of all rows, the texts to score, and the others with their reasons."""
    source, reader, options = source_of(path), ParquetReader(), Input(path=str(path), **keys)
    carried = column_types(options.carried, "to carry", source, reader.schema(source, options))
    cuts = reader.cut(source, CutSize(1 << 20, 1 << 20, 2), options)
    unit = Unit("u", tuple(Span(source, cut) for cut in cuts))
    ((_, chunks),) = read_units(reader, options, Types(carried, pa.schema([])), [unit], RULES)
    kept = pa.concat_tables([chunk.carried for chunk in chunks])
    bad = pa.concat_tables([chunk.bad for chunk in chunks])
    pq.read_table(pa.BufferReader(encode_part(kept, {})))  # what is carried can be written
    pa.ipc.open_file(encode_side(bad)).read_all()
    assert FOOTER_KEY
    reasons = list(zip(bad["row"].to_pylist(), bad["reason"].to_pylist(), strict=True))
    return kept, [text for chunk in chunks for text in chunk.texts], reasons


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(column=columns(), schema=st.booleans())
def test_any_column_is_carried_unchanged_or_refused(column, schema, tmp_path_factory) -> None:
    path = written(tmp_path_factory.mktemp("types"), column, schema)
    if path is None:
        return
    whole = pq.read_table(path, columns=["odd"])["odd"]
    try:
        kept, texts, bad = read(path, carry=["odd"])
    except SourceError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert "'odd'" in said or "Parquet" in said
        return
    assert texts == ["x"] * len(column)
    assert not bad
    part = pq.read_table(pa.BufferReader(encode_part(kept, {})))["odd"]
    assert part.to_pylist() == whole.to_pylist()


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(column=columns(), schema=st.booleans())
def test_any_column_is_scored_as_text_or_quarantined(column, schema, tmp_path_factory) -> None:
    path = written(tmp_path_factory.mktemp("types"), column, schema)
    if path is None:
        return
    whole = pq.read_table(path, columns=["odd"])["odd"]
    _, texts, bad = read(path, text="odd")
    if is_text(whole.type):
        values = [as_text(value) for value in whole.to_pylist()]
        assert texts == [value for value in values if value not in (None, b"")]
        why = {None: "text is null", b"": "text is not valid UTF-8"}
        assert bad == [(i, why[value]) for i, value in enumerate(values) if value in why]
    else:
        assert not texts
        assert [row for row, _ in bad] == list(range(len(column)))
        assert all("not a string" in reason for _, reason in bad)


def as_text(value: str | bytes | None) -> str | bytes | None:
    """Bytes are text; b"" for those that are none."""
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return b""
