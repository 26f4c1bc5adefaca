"""CSV as other programs write it: escaped quotes, UTF-16, nulls by name, tabs."""

import gzip
import logging

import pytest
from pydantic import ValidationError

from bertbatch.errors import SourceError
from bertbatch.inputs.formats import byte_stream
from bertbatch.inputs.formats.csv import CsvReader
from bertbatch.inputs.formats.reader import CutSize
from tests.helpers.reading import read, settings_of, stored

SPARK = b'id,text\n1,"a \\"quoted\\" word"\n2,"C:\\\\"\n3,\\N\n4,"\\N"\n5,a\\n\n6,"\\n"\n'


def test_a_backslash_escapes_within_quotes_alone() -> None:
    _, good, bad = read(stored(SPARK), ["text"], settings_of(escape="\\"))
    texts = [row[0] for _, row in good]
    assert texts == ['a "quoted" word', "C:\\", None, "\\N", "a\\n", "\\n"]
    assert bad == {}


@pytest.mark.parametrize(
    ("data", "warned"),
    [
        (SPARK, True),
        (b'id,text\n1,"C:\\"\n', False),
        (b'id,text\n1,"say \\""now\\"""\n', False),
        (b'id,text\n1,"a\\\\" b\n', False),
    ],
)
def test_escapes_are_warned_of(data, warned, caplog) -> None:
    caplog.set_level(logging.WARNING, "bertbatch")
    CsvReader().schema(stored(data), settings_of())
    assert ("x.csv: line 2 has a backslash before a quote" in caplog.text) == warned
    assert ("set input.csv.escape to '\\'" in caplog.text) == warned
    caplog.clear()
    CsvReader().schema(stored(data), settings_of(escape="\\"))
    assert caplog.text == ""


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("block", [5, 8 << 20])
def test_utf16_is_read(encoding, marked, packed, block, monkeypatch) -> None:
    text = 'id,text\r\n1,"日本, 😀"\r\n2,b\r\n'
    data = text.encode(encoding)
    if marked and encoding != "utf-16":
        data = "\ufeff".encode(encoding) + data
    if not marked:
        encoding = "utf-16-le" if encoding == "utf-16" else encoding
        data = data.removeprefix(b"\xff\xfe")
    said = settings_of(**({} if marked else {"encoding": encoding}))
    source = stored(gzip.compress(data), "x.csv.gz") if packed else stored(data)
    monkeypatch.setattr(byte_stream, "BLOCK", block)
    for size in (CutSize(1, 1, 1), CutSize(1 << 20, 1 << 20, 1 << 20)):
        cuts, good, bad = read(source, ["id", "text"], said, size)
        assert [row for _, row in good] == [["1", "日本, 😀"], ["2", "b"]]
        assert (bad, len(cuts)) == ({}, 2 if size.rows == 1 else 1)


def test_half_a_pair_of_utf16_is_a_bad_row() -> None:
    data = "id,text\n1,a\n2,".encode("utf-16") + b"\x00\xd8" + "\n3,c\n".encode("utf-16-le")
    _, good, bad = read(stored(data), ["text"], settings_of())
    assert good == [(0, ["a"]), (2, ["c"])]
    assert bad == {1: "column 'text' is not valid utf-8 at byte 0 of the field"}
    with pytest.raises(SourceError, match="truncated data"):
        read(stored(data + b"x"), ["text"], settings_of())


def test_utf16_without_a_mark_is_named() -> None:
    with pytest.raises(SourceError, match=r"UTF-16; set input\.csv\.encoding to utf-16-le or"):
        CsvReader().schema(stored("id,text\n1,a\n".encode("utf-16-le")), settings_of())


def test_tabs_are_between_the_fields_of_a_tsv_file() -> None:
    data = b"id\ttext\n1\ta,b\n"
    for name in ("x.tsv", "x.TSV"):
        assert read(stored(data, name), ["text"], settings_of())[1] == [(0, ["a,b"])]
    packed = stored(gzip.compress(data), "x.tsv.gz")
    assert read(packed, ["text"], settings_of())[1] == [(0, ["a,b"])]
    semicolons = stored(b"id;text\n1;a\tb\n", "x.tsv")
    assert read(semicolons, ["text"], settings_of(delimiter=";"))[1] == [(0, ["a\tb"])]


@pytest.mark.parametrize(
    "dialect",
    [{"quote": ","}, {"quote": "\t"}, {"escape": '"'}, {"escape": ","}, {"escape": "\\\\"},
     {"escape": "\\", "encoding": "cp932"}, {"delimiter": "\\", "escape": "\\"}],
)  # fmt: skip
def test_a_dialect_that_cannot_be_told_apart_is_refused(dialect) -> None:
    with pytest.raises(ValidationError):
        settings_of(**dialect)


def test_an_empty_string_may_be_the_last_of_a_file() -> None:
    _, good, bad = read(stored(b'text,b\na,""\n'), ["text", "b"], settings_of(escape="\\"))
    assert ([row for _, row in good], bad) == ([["a", ""]], {})
