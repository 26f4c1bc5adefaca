"""A line of JSONL is a row or a bad row with its number, whatever the cuts; no value is bent."""

import gzip
import json
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bertbatch.errors import SourceError
from bertbatch.inputs.formats import byte_stream
from bertbatch.inputs.formats.content import what_it_is
from bertbatch.inputs.formats.jsonl import JsonlReader
from bertbatch.inputs.formats.reader import CutSize
from bertbatch.inputs.rows import Types, read_units
from bertbatch.job.input import Input
from bertbatch.storage.stores import connect
from bertbatch.units import Source, Span, Unit
from tests.helpers.reading import BIG, all_rows, check_cuts, stored

OPTIONS = Input(path="x.jsonl")
TEXT = {"text": None}
PIECES = [
    *(
        '{"text":"a"}',
        '{"text":"日"}',
        '{"text":null}',
        '{"text":1}',
        '{"x":2}',
        "{",
        "}",
        '"',
        ",",
    ),
    *(
        "\n",
        "\n",
        "\r\n",
        "\r",
        " ",
        "\t",
        "\u2028",
        "\x85",
        "\0",
        "[]",
        "null",
        "NaN",
        "\\",
        "\ufeff",
    ),
    *('{"text":"a","text":"b"}', '{"text":"\\ud800"}', '{"x":[[[{"y":1e9}]]],"text":"c"}'),
]
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def lines_of(data: bytes) -> list[bytes]:
    """What has more than spaces between two line feeds."""
    return [line for line in data.split(b"\n") if line.strip(b" \t\r")]


def text_of(line: bytes) -> Any:
    """The text of a line; an error if it is not an object, or its text is none."""
    try:
        found = msgspec.json.decode(line, type=dict[str, Any])
        found = found.get("text")
        return found if found is None or isinstance(found, str) else ValueError
    except msgspec.DecodeError:
        return ValueError


@settings(max_examples=500, deadline=None)
@given(HOSTILE, st.integers(1, 60), st.integers(1, 5), st.integers(3, 20))
@example('{"text":"a"}{"text":"b"}\n{"text":\n"c"}\n', 8, 2, 3)
@example('\ufeff \n\n{"text":"a"}\r\n\n', 8, 2, 3)
def test_rows_are_the_lines_whatever_the_cuts(
    text: str, text_bytes: int, rows: int, block: int
) -> None:
    data = text.encode()
    assume(what_it_is(data) is None)  # which is refused
    source, size = stored(data, "x.jsonl"), CutSize(text_bytes, 1 << 30, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byte_stream, "BLOCK", block)
        cuts, good, bad = all_rows(JsonlReader(), source, TEXT, OPTIONS, size)
    data = data.removeprefix(b"\xef\xbb\xbf")
    expected = [text_of(line) for line in lines_of(data)]
    assert good == [(n, [t]) for n, t in enumerate(expected) if t is not ValueError]
    assert sorted(bad) == [n for n, t in enumerate(expected) if t is ValueError]
    numbers = [i for i, line in enumerate(data.split(b"\n"), 1) if line.strip(b" \t\r")]
    for row, reason in bad.items():
        assert reason.startswith(f"line {numbers[row]}: ")
    check_cuts(cuts, len(expected), 0, size)
    assert all_rows(JsonlReader(), source, TEXT, OPTIONS)[1:] == (good, bad)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 65), 1 << 65) | st.text(max_size=3)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=4), st.lists(VALUES, max_size=4))
@example([1, None], [True, 1.0, "1", 1 << 63, -(1 << 63)])
@example([1.5, 2], [1 << 53, (1 << 53) + 1])
@example([{"a": [1]}], [{"a": []}, {"a": [None]}, {"b": 1}, {}])
def test_a_value_keeps_what_it_is_or_its_row_is_bad(first: list[Any], later: list[Any]) -> None:
    """Types are those of the first file's values; a value of the second fits them as it is."""
    one, two = (
        stored("".join(json.dumps({"v": v, "text": "x"}) + "\n" for v in values).encode(), name)
        for values, name in ((first, "1.jsonl"), (later, "2.jsonl"))
    )
    schema = JsonlReader().schema(one, OPTIONS)
    if "v" not in schema.names:  # no column can hold it
        return
    kind = schema.field("v").type
    pa.parquet.write_table(schema.empty_table(), pa.BufferOutputStream())  # Parquet has it
    for values, source in ((first, one), (later, two)):
        _, good, bad = all_rows(JsonlReader(), source, {"v": kind}, OPTIONS)
        for row, (found,) in good:
            assert same(found, values[row], kind), (found, values[row], kind)
        for row in bad:
            assert not fits(values[row], kind), (values[row], kind)


def same(found: Any, value: Any, kind: pa.DataType) -> bool:
    if isinstance(value, dict) and found is not None:
        # Fields that an object lacks are null.
        return value.keys() <= found.keys() and all(
            same(inner, value.get(name), kind.field(name).type) for name, inner in found.items()
        )
    if isinstance(value, list) and found is not None:
        inner = zip(found, value, strict=True)
        return all(same(a, b, kind.value_type) for a, b in inner)
    if pa.types.is_floating(kind) and isinstance(value, int) and not isinstance(value, bool):
        return int(found) == value
    return type(found) is type(value) and found == value


def fits(value: Any, kind: pa.DataType) -> bool:
    """Whether an Arrow type holds a JSON value as it is."""
    if value is None:
        return True
    if isinstance(value, bool):
        return pa.types.is_boolean(kind)
    if isinstance(value, int):
        exact = pa.types.is_floating(kind) and abs(value) <= 1 << 53
        return exact or (pa.types.is_integer(kind) and -(1 << 63) <= value < 1 << 63)
    if isinstance(value, float):
        return pa.types.is_floating(kind)
    if isinstance(value, str):
        return pa.types.is_string(kind)
    if isinstance(value, list):
        return pa.types.is_list(kind) and all(fits(each, kind.value_type) for each in value)
    names = [field.name for field in kind] if pa.types.is_struct(kind) else []
    return pa.types.is_struct(kind) and all(
        name in names and fits(inner, kind.field(name).type) for name, inner in value.items()
    )


@pytest.mark.parametrize("depth", [10, 5000])
def test_objects_may_be_deep(depth: int) -> None:
    deep = b'{"text":"a","x":' + b"[" * depth + b"]" * depth + b"}\n"
    source = stored(deep + b'{"text":"b"}\n', "x.jsonl")
    assert JsonlReader().schema(source, OPTIONS).field("text").type == pa.string()
    _, good, bad = all_rows(JsonlReader(), source, TEXT, OPTIONS)
    assert len(good) + len(bad) == 2
    assert good[-1] == (1, ["b"])


def test_rows_are_those_of_polars(tmp_path) -> None:
    frame = pl.DataFrame(
        {
            "text": ['a "b"\n\\', "日本\u2028", None, ""],
            "n": [1, None, 3, 4],
            "f": [0.1, 1e300, 2.0, None],
            "l": [[1], [], None, [2, 3]],
            "s": [{"a": "x"}, {"a": None}, {"a": "y"}, {"a": ""}],
        }
    )
    wanted = pa.schema(
        [
            ("text", pa.string()),
            ("n", pa.int64()),
            ("f", pa.float64()),
            ("l", pa.list_(pa.int64())),
            ("s", pa.struct([("a", pa.string())])),
        ]
    )
    frame.write_ndjson(tmp_path / "x.jsonl")
    data = (tmp_path / "x.jsonl").read_bytes()
    for source in (stored(data, "x.jsonl"), stored(gzip.compress(data), "x.jsonl.gz")):
        assert JsonlReader().schema(source, OPTIONS) == wanted
        columns = {field.name: field.type for field in wanted}
        _, good, bad = all_rows(JsonlReader(), source, columns, OPTIONS)
        assert ([row for _, row in good], bad) == ([list(row) for row in frame.rows()], {})


def test_fields_of_objects_are_columns() -> None:
    lines = [
        '{"a":{"b":{"c":"x"}},"n":1}',
        '{"a":null}',
        '{"a.b.c":"own","a":{"b":{"c":"x"}}}',
        '{"a":1}',
    ]
    source = stored("\n".join(lines).encode(), "x.jsonl")
    kinds = {
        "a.b.c": None,
        "n": pa.int64(),
        "a": pa.struct([("b", pa.struct([("c", pa.string())]))]),
    }
    _, good, bad = all_rows(JsonlReader(), source, kinds, OPTIONS)
    whole = {"b": {"c": "x"}}
    assert good == [(0, ["x", 1, whole]), (1, [None, None, None]), (2, ["own", None, whole])]
    assert list(bad) == [3]


def test_a_template_takes_numbers_as_they_are_written() -> None:
    options = Input(path="x", template="{n}, {t}")
    source = stored(b'{"n":1.50,"t":"a"}\n{"n":true,"t":null}\n{"n":[1]}\n{"n":"1\\n"}', "x.jsonl")
    _, good, bad = all_rows(JsonlReader(), source, {"n": None, "t": None}, options)
    assert [row for _, row in good] == [["1.50", "a"], ["true", None], ["1\n", None]]
    assert bad == {2: "line 3: column 'n': is a list or an object, not text"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"id,text\n1,a\n", "no line of it is a JSON object"),
        (b'[{"text": "a"}]', "no line of it is a JSON object"),
        ('{"text":"a"}'.encode("utf-16-le"), "UTF-16"),
        (b"PAR1" + bytes(60), "a Parquet file"),
    ],
)
def test_another_kind_of_file_is_refused(data: bytes, said: str) -> None:
    source = stored(data, "x.jsonl")
    with pytest.raises(SourceError, match=said):
        JsonlReader().schema(source, OPTIONS)


def test_utf16_with_a_mark_is_read() -> None:
    source = stored('{"text":"日"}\n'.encode("utf-16"), "x.jsonl")
    assert all_rows(JsonlReader(), source, TEXT, OPTIONS, BIG)[1] == [(0, ["日"])]


def test_a_carried_column_changes_no_text_of_a_template(tmp_path) -> None:
    options = Input(path="x", template="{p}", carry=["p"])
    path = tmp_path / "x.jsonl"
    path.write_text('{"p":1.50}\n{"p":1e3}\n{"p":1.0}')
    info = connect(str(path))[0].info(str(path))
    source = Source("x.jsonl", str(path), info.size, info.stamp)
    types = Types(pa.schema([("p", pa.float64())]), pa.schema([]))
    reader = JsonlReader()
    unit = Unit("u", tuple(Span(source, cut) for cut in reader.cut(source, BIG, options)))
    ((_, (chunk,)),) = read_units(reader, options, types, [unit], {})
    assert chunk.texts == ["1.50", "1e3", "1.0"]
    assert chunk.carried["p"].to_pylist() == [1.5, 1000.0, 1.0]


def test_what_no_column_can_hold_is_no_column() -> None:
    line = {"text": "a", "e": {}, "l": [{"x": {}}], "big": 1 << 70, 'q"': 1, "ok": 1}
    source = stored(json.dumps(line).encode(), "x.jsonl")
    assert JsonlReader().schema(source, OPTIONS).names == ["text", "ok"]
