"""The reader gives the csv module's rows, whatever the cuts; what it can't use it names."""

import csv
import gzip
import io
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bertbatch.errors import SourceError
from bertbatch.inputs.formats import byte_cuts, byte_stream
from bertbatch.inputs.formats import csv as csv_reader
from bertbatch.inputs.formats.csv import CsvReader
from bertbatch.inputs.formats.csv_records import Dialect
from bertbatch.inputs.formats.reader import CutSize
from bertbatch.storage.stores import Store
from tests.helpers.csv_module import closed
from tests.helpers.reading import BIG, check_cuts, read, settings_of, stored

FIELD = st.text(st.sampled_from(list('"",\r\n a日\0')), max_size=6)
LINES = st.lists(st.lists(FIELD, min_size=1, max_size=4), max_size=8)
HOSTILE = st.text(st.sampled_from(list('""",,,\r\n\na 日\0')), max_size=60)


@settings(max_examples=300, deadline=None)
@given(HOSTILE, st.integers(1, 40), st.integers(1, 5), st.integers(1, 12))
@example('a,"b\r\n\n"\r\n\n5" pipe,""\r"x""y"z"w,\n,"open', 8, 2, 3)
def test_rows_are_the_csv_modules_whatever_the_cuts(
    text: str, text_bytes: int, rows: int, block: int
) -> None:
    header = "left,right\r\n"
    text = closed(text, Dialect())
    source, options = stored((header + text).encode()), settings_of()
    expected = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byte_stream, "BLOCK", block)
        size = CutSize(text_bytes, 1 << 30, rows)
        cuts, good, bad = read(source, ["right", "left"], options, size)

    assert {n: [value or "" for value in row] for n, row in good} == {
        n: [row[1], row[0]] for n, row in enumerate(expected) if len(row) == 2
    }
    assert sorted(bad) == [n for n, row in enumerate(expected) if len(row) != 2]
    assert read(source, ["right", "left"], options)[1:] == (good, bad)  # nulls and reasons, too

    check_cuts(cuts, len(expected), len(header), size)


BYTES = st.lists(st.sampled_from(b'"\'",;\t\r\n\n ab\x00\x81\xe6\xff\xef\xbb\xbf')).map(bytes)
ASCII = st.characters(max_codepoint=127)


@settings(max_examples=400, deadline=None)
@given(
    BYTES | st.binary(max_size=80),
    st.fixed_dictionaries(
        {"header": st.booleans()},
        optional={
            "delimiter": ASCII, "quote": ASCII,
            "encoding": st.sampled_from(["utf-8", "cp932", "euc-jp", "latin-1", "cp1252"]),
        },
    ),
    st.sampled_from(["plain", "gzip", "not gzip", "cut off"]),
    st.integers(1, 30),
)  # fmt: skip
def test_any_bytes_are_rows_or_bad_rows_or_an_error(
    data: bytes, dialect: Any, how: str, n: int
) -> None:
    try:
        options = settings_of(**dialect)
    except ValidationError:
        return
    packed = {"plain": data, "not gzip": data}.get(how, gzip.compress(data))
    packed = packed[: -1 - n // 2] if how == "cut off" else packed
    source = stored(packed, "x.csv" if how == "plain" else "x.csv.gz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byte_stream, "BLOCK", n)
        try:
            names = CsvReader().schema(source, options).names
            cuts, good, bad = read(source, names, options, CutSize(n, 1 << 30, 3))
        except SourceError:
            return
    numbers = sorted([number for number, _ in good] + list(bad))
    assert numbers == list(range(sum(cut.rows for cut in cuts)))


def test_cuts_are_as_large_as_they_may_be() -> None:
    source, reader = stored(b"a\n" + b"123\n" * 10 + b"longer than that\n1\n"), CsvReader()

    def rows(*size: int) -> list[int]:
        return [cut.rows for cut in reader.cut(source, CutSize(*size), settings_of())]

    assert rows(8, 99, 99) == rows(99, 11, 99) == [2, 2, 2, 2, 2, 1, 1]
    assert rows(99, 99, 5) == [5, 5, 2]
    assert rows(99, 99, 99) == [12]


@settings(max_examples=200, deadline=None)
@given(LINES, st.sampled_from([(csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\n")]))
def test_what_the_csv_module_writes_comes_back(lines: list[list[str]], how: Any) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=how[0], lineterminator=how[1])
    writer.writerow(["a", "b", "c", "d"])
    lines = [(line * 4)[:4] for line in lines]
    writer.writerows(lines)
    _, good, bad = read(stored(out.getvalue().encode()), ["a", "b", "c", "d"], settings_of())
    assert [[v or "" for v in row] for _, row in good] == lines
    assert not bad


def test_nothing_is_null_and_quoted_nothing_is_empty() -> None:
    _, good, _ = read(stored(b'a,b\n,""\n"",\r\n"",'), ["a", "b"], settings_of())
    assert good == [(0, [None, ""]), (1, ["", None]), (2, ["", None])]
    _, good, _ = read(stored(b'a\n""\n\n\r\nx\n'), ["a"], settings_of())
    assert good == [(0, [""]), (1, ["x"])]


def test_ragged_records_are_bad_and_the_others_go_on() -> None:
    source = stored(b"a,b\n1,2\n3\n4,5,6\n7,8\n")
    _, good, bad = read(source, ["b"], settings_of())
    assert good == [(0, ["2"]), (3, ["8"])]
    assert bad == {
        1: "has 1 field, the header has 2",
        2: "has 3 fields, the header has 2",
    }


def test_invalid_utf8_is_bad_only_in_a_column_that_is_asked_for() -> None:
    source = stored(b"a,b\n1,2,3\nok,\xff\nab\xe6\x97,ok\n\xf0\x9f\x98\x80,\xe6\x97\xa5\n")
    _, good, bad = read(source, ["a"], settings_of())
    assert good == [(1, ["ok"]), (3, ["😀"])]
    assert bad[2] == "column 'a' is not valid utf-8 at byte 2 of the field"
    assert list(bad) == [0, 2]
    for size in (BIG, CutSize(1, 99, 99)):
        assert list(read(source, ["a", "b"], settings_of(), size)[2]) == [0, 1, 2]


@pytest.mark.parametrize("encoding", ["cp932", "euc-jp", "latin-1", "cp1252", "utf-8"])
def test_encodings_are_read(encoding: str) -> None:
    # Of the first one's bytes in cp932 one is a backslash, as in many others.
    text = "表,予約" if encoding in ("cp932", "euc-jp", "utf-8") else "é,ü"
    source = stored(
        (text + '\r\n"表""",\r\n' if "表" in text else text + "\r\nà,\r\n").encode(encoding)
    )
    name, other = text.split(",")
    assert CsvReader().schema(source, settings_of(encoding=encoding)).names == [name, other]
    _, good, bad = read(source, [name, other], settings_of(encoding=encoding))
    assert good == [(0, ['表"' if "表" in text else "à", None])]
    assert not bad


def test_wrong_encoding_is_named() -> None:
    source = stored("a\n日本\n".encode("cp932"))
    assert read(source, ["a"], settings_of())[2] == {
        0: "column 'a' is not valid utf-8 at byte 0 of the field"
    }
    with pytest.raises(SourceError, match="header is not valid utf-8"):
        CsvReader().schema(stored("日本\n1\n".encode("cp932")), settings_of())


def test_dialects_are_read_or_refused() -> None:
    source = stored(b"a\t'b\n'\n\"x\t'it''s\t'\n")
    options = settings_of(delimiter="\t", quote="'")
    assert CsvReader().schema(source, options).names == ["a", "b\n"]
    assert read(source, ["b\n", "a"], options)[1] == [(0, ["it's\t", '"x'])]
    with pytest.raises(ValidationError, match="half a character in cp932"):
        settings_of(delimiter="|", encoding="cp932")
    with pytest.raises(ValidationError, match="the same character"):
        settings_of(delimiter='"')


def test_columns_without_a_header_are_numbered() -> None:
    source, options = stored(b"1,2\n3,4\n5\n"), settings_of(header=False)
    assert CsvReader().schema(source, options).names == ["c0", "c1"]
    _, good, bad = read(source, ["c1"], options)
    assert good == [(0, ["2"]), (1, ["4"])]
    assert bad == {2: "has 1 field, the first record has 2"}


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b"\n\r\n\r"])
@pytest.mark.parametrize("header", [True, False])
def test_an_empty_file_has_no_rows(data: bytes, header: bool) -> None:
    source, options = stored(data), settings_of(header=header)
    assert CsvReader().schema(source, options) == pa.schema([])
    assert list(CsvReader().cut(source, BIG, options)) == []


def test_a_header_alone_has_no_rows() -> None:
    for data in (b"a,b", b"\n\xef\xbb\xbfa,b\r\n\r\n"[1:]):
        assert CsvReader().schema(stored(data), settings_of()).names == ["a", "b"]
        assert read(stored(data), ["a"], settings_of()) == ([], [], {})


def test_headers_that_cannot_be_used_are_refused() -> None:
    twice = stored(b"b,c,a,c,b,,\n1,2,3,4,5,,\n")
    assert CsvReader().schema(twice, settings_of()).names == ["b", "c", "a", "c", "b", "", ""]
    assert read(twice, ["a"], settings_of())[1] == [(0, ["3"])]
    with pytest.raises(SourceError, match="has 2 columns named 'c'"):
        read(twice, ["a", "c"], settings_of())
    with pytest.raises(SourceError, match="has no column 'text'; it has: a, b"):
        read(stored(b"a,b\n1,2\n"), ["text"], settings_of())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_reader, "_HEAD", (4, 8))
        assert CsvReader().schema(stored(b"a,long\nx"), settings_of()).names == ["a", "long"]
        assert CsvReader().schema(stored(b"\n\n\n\n\na\n"), settings_of()).names == ["a"]
        with pytest.raises(SourceError, match="is a quote left open"):
            CsvReader().schema(stored(b'a,"open\n1,2\n3'), settings_of())
        with pytest.raises(SourceError, match="opens in line 1 is never closed"):
            CsvReader().schema(stored(b'a,"ope'), settings_of())


def test_a_record_that_is_too_long_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (csv_reader, byte_cuts):
        monkeypatch.setattr(module, "MAX_RECORD", 20)
    source = stored(b'a,b\n1,2\n3,4\n"left open' + b",\n" * 10 + b'"')
    cuts, good, bad = read(source, ["b"], settings_of())
    assert good == [(0, ["2"]), (1, ["4"])]
    assert [cut.rows for cut in cuts] == [2, 1]
    assert list(bad) == [2]
    assert "is a quote left open" in bad[2]


def test_stores_are_never_asked_for_bytes_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # An object store answers such a request with an error.
    monkeypatch.setattr(csv_reader, "_HEAD", (4, 8))
    monkeypatch.setattr(byte_stream, "BLOCK", 3)
    asked: list[tuple[int, int]] = []
    real = Store.read

    def remember(self: Store, path: str, start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return real(self, path, start, stop)

    monkeypatch.setattr(Store, "read", remember)
    for data in (b"", b"a,bc", b"a\n1\n2"):
        read(stored(data), ["a"] if data else [], settings_of())
        assert all(start < stop <= len(data) for start, stop in asked)
        asked.clear()
