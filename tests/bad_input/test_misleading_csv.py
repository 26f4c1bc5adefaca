"""CSV that is not what it seems: open quotes, packed otherwise than named, other formats inside."""

import bz2
import gzip
import io
import logging
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertbatch.errors import SourceError
from bertbatch.inputs.formats import byte_stream, csv_records
from bertbatch.inputs.formats.content import what_it_is
from bertbatch.inputs.formats.csv import CsvReader
from bertbatch.inputs.formats.parquet import ParquetReader
from bertbatch.inputs.formats.reader import CutSize
from bertbatch.job.input import Input
from bertbatch.units import Source

BIG = CutSize(1 << 30, 1 << 30, 1 << 30)


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, "zstd", asbytes=True))


PACKS: dict[str, Callable[[bytes], bytes]] = {
    "x.csv": bytes, "x.csv.gz": gzip.compress, "x.csv.zst": zstd,
}  # fmt: skip


def source_of(folder: Path, name: str, data: bytes) -> Source:
    (folder / name).write_bytes(data)
    return Source(name, str(folder / name), len(data), "1")


def planned(source: Source, **dialect: Any) -> int:
    """The rows of a source."""
    options = Input(path="x", csv=dialect)
    return sum(cut.rows for cut in CsvReader().cut(source, BIG, options))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(byte_stream, "BLOCK", 64)
    monkeypatch.setattr(csv_records, "PIECE", 29)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", PACKS)
@pytest.mark.parametrize("line", [2, 17, 999, 1000])
def test_a_quote_that_is_never_closed_is_named_by_its_line(line, name, end, tmp_path, small_blocks):
    lines = ["id,text", *(f'{i},"fine, {i}"' for i in range(2, 1001))]
    lines[line - 1] = f'{line},"oops'
    # The next line's own quotes go on as text, or close it: what stays open is the last one.
    lines = [text.replace('"', "") if i >= line else text for i, text in enumerate(lines)]
    source = source_of(tmp_path, name, PACKS[name](end.join([*lines, ""]).encode()))
    with pytest.raises(SourceError, match=rf"the quote that opens in line {line} is never closed"):
        planned(source)


def test_a_quote_left_open_fails_its_file_only(score, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("text\nfine\n")
    (tmp_path / "in" / "b.csv").write_text('text\nfine\n"oops\n' + "fine\n" * 1000)
    result = score(tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 3
    assert list(result.failed_sources) == ["b.csv"]
    assert "line 3" in result.failed_sources["b.csv"]
    assert result.totals["rows_in"] == 1


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", PACKS)
def test_a_very_long_record_is_reported(name, end, tmp_path, small_blocks, caplog):
    def warnings(lines: list[str]) -> list[str]:
        caplog.clear()
        source = source_of(tmp_path, name, PACKS[name](end.join([*lines, ""]).encode()))
        with caplog.at_level(logging.WARNING):
            planned(source)
        return caplog.messages

    short, long = ["x"] * 998, ["x"] * 999
    assert warnings(["id", "1", '"open', *short, 'closed"', "2"]) == []
    (said,) = warnings(["id", "1", '"open', *long, 'closed"', "2", '"', *long, '"'])
    assert said.startswith("x.csv")
    assert "2 records have more than 1000 lines, such as lines 3 to 1003" in said


TEXT = b"id,text\n" + b"".join(b"%d,row %d\n" % (i, i) for i in range(500))
ZEROS, GARBAGE = bytes(512), b"not a member"
WHOLE = {
    "x.csv.gz": [
        gzip.compress(TEXT), gzip.compress(TEXT[:99]) + gzip.compress(TEXT[99:]),
        gzip.compress(TEXT) + ZEROS, gzip.compress(TEXT) + b"\0",
        gzip.compress(TEXT[:99]) + ZEROS + gzip.compress(TEXT[99:]),
        gzip.compress(b"") + gzip.compress(TEXT) + gzip.compress(b""),
    ],
    "x.csv.zst": [
        zstd(TEXT), zstd(TEXT[:99]) + zstd(TEXT[99:]),
        b"\x50\x2a\x4d\x18\x04\0\0\0skip" + zstd(TEXT), zstd(b"") + zstd(TEXT),
    ],
}  # fmt: skip
BROKEN = {
    "x.csv.gz": [
        gzip.compress(TEXT) + GARBAGE, gzip.compress(TEXT)[:-1], gzip.compress(TEXT)[:-8],
        gzip.compress(TEXT) + gzip.compress(TEXT)[:30], gzip.compress(TEXT) + b"\x1f",
        gzip.compress(TEXT) + ZEROS + GARBAGE, TEXT, zstd(TEXT), b"\0" * 600,
    ],
    "x.csv.zst": [
        zstd(TEXT) + GARBAGE, zstd(TEXT)[:-1], zstd(TEXT) + zstd(TEXT)[:30], TEXT,
        gzip.compress(TEXT), zstd(TEXT) + b"\x28",
    ],
}  # fmt: skip


@pytest.mark.parametrize("block", [64, 8 << 20])
def test_packed_files_are_read_to_their_last_byte(block, tmp_path, monkeypatch):
    monkeypatch.setattr(byte_stream, "BLOCK", block)
    for name, contents in WHOLE.items():
        for data in contents:
            assert planned(source_of(tmp_path, name, data)) == 500
    for name, contents in BROKEN.items():
        for data in contents:
            with pytest.raises(SourceError, match="cannot be read as CSV"):
                planned(source_of(tmp_path, name, data))


def written(write: Callable[[Any, Any], Any]) -> bytes:
    sink = io.BytesIO()
    write(pa.table({"id": ["1"], "text": ["a"]}), sink)
    return sink.getvalue()


def zipped(data: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        file.writestr("a.csv", data)
    return sink.getvalue()


INSIDE = {
    "gzip": gzip.compress(TEXT), "zstandard": zstd(TEXT), "bzip2": bz2.compress(TEXT),
    "xz": lzma.compress(TEXT), "zip": zipped(TEXT), "Parquet": written(pq.write_table),
    "Arrow": written(lambda t, f: pa.feather.write_feather(t, f)),
    "ORC": written(lambda t, f: pa.orc.write_table(t, f)),
}  # fmt: skip
ENCODED = {
    f"UTF-{name} {title}": f"id,text\r\n1,{text}\r\n".encode(f"utf-{name}")
    for title, text in (("short", "a"), ("CJK", "吾輩は猫である吀" * 90))
    for name in ("16", "16-le", "16-be", "32")
}


MARKED = {"UTF-16 short", "UTF-16 CJK"}  # which are read, by their byte order mark


@pytest.mark.parametrize("kind", [*INSIDE, *sorted(set(ENCODED) - MARKED)])
@pytest.mark.parametrize("name", PACKS)
def test_what_a_file_holds_is_named_if_it_is_no_csv(name, kind, tmp_path, score):
    data = PACKS[name]({**INSIDE, **ENCODED}[kind])
    source = source_of(tmp_path, name, data)
    for look in (lambda: planned(source), lambda: CsvReader().schema(source, Input(path="x"))):
        with pytest.raises(SourceError, match=kind[:6]):
            look()


@pytest.mark.parametrize("kind", [*sorted(set(INSIDE) - {"Parquet"}), *ENCODED, "text"])
def test_what_a_file_holds_is_named_if_it_is_no_parquet(kind, tmp_path):
    data = {**INSIDE, **ENCODED, "text": TEXT}[kind]
    source = source_of(tmp_path, "x.parquet", data)
    with pytest.raises(SourceError, match=kind[:6]):
        ParquetReader().schema(source, Input(path="x"))


@settings(max_examples=300, deadline=None)
@given(st.text(min_size=1, max_size=40), st.sampled_from(["utf-8", "cp932", "latin-1", "euc-jp"]))
def test_text_is_never_taken_for_something_else(text: str, encoding: str) -> None:
    """But for zeros and byte order marks, which no text has where it begins."""
    data = text.replace("\0", "").encode(encoding, errors="ignore")
    if not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        assert what_it_is(data) is None


@pytest.mark.parametrize("word", ["PAR1", "ORC", "BZh91", "PK", "FEA1", "ARROW1", "Obj", "%PDF-1"])
def test_columns_may_be_called_like_a_format(word, tmp_path):
    assert planned(source_of(tmp_path, "x.csv", f"{word},text\n1,a\n".encode())) == 1
