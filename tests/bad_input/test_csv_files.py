"""CSV files, plain and compressed, are read to their end; what damages them is a source's error."""

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from bertbatch.errors import SourceError
from bertbatch.inputs.formats import byte_stream
from bertbatch.inputs.formats.csv import CsvReader
from bertbatch.inputs.formats.reader import CutSize
from bertbatch.units import Source
from tests.helpers.reading import BIG, read, settings_of

Make = Callable[..., Source]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def write(name: str, data: bytes) -> Source:
        path = tmp_path / name
        path.write_bytes(data)
        return Source(name, str(path), len(data), "1")

    return write


TEXT = b"id,text\r\n" + b"".join(
    b'%d,"text, number ""%d""\n%s"\r\n' % (i, i, b"x" * (i % 50)) for i in range(3000)
)


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, "zstd", asbytes=True))


def gzip_in_two(data: bytes) -> bytes:
    return gzip.compress(data[:1000]) + gzip.compress(data[1000:])


@pytest.mark.parametrize(
    ("name", "pack"),
    [("x.csv", bytes), ("x.csv.gz", gzip.compress), ("y.csv.gz", gzip_in_two), ("x.csv.zst", zstd)],
)
def test_files_are_read_plain_and_compressed(
    make: Make, name: str, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_stream, "BLOCK", 10_000)
    source, options, reader = make(name, pack(TEXT)), settings_of(), CsvReader()
    cuts, good, bad = read(source, ["text", "id"], options, CutSize(7000, 1 << 30, 1000))
    assert len(cuts) > 10
    assert not bad
    rows = list(csv.reader(io.StringIO(TEXT.decode(), newline="")))[1:]
    assert good == [(n, [text, number]) for n, (number, text) in enumerate(rows)]

    for some in (cuts[5:7], [cuts[3], cuts[9]]):  # as a task that starts in the middle
        read_again = list(reader.read(source, some, ["id"], options))
        assert [r.row[0] for r in read_again] == [cut.first_row for cut in some]
        assert read_again[1].table["id"][0].as_py() == str(some[1].first_row)
    assert reader.task_cuts(source) == (4 if name == "x.csv" else 16)


@pytest.mark.parametrize("name", ["x.csv.gz", "x.csv.zst"])
def test_damaged_compressed_files_are_source_errors(make: Make, name: str) -> None:
    packed = gzip.compress(TEXT) if name.endswith("gz") else zstd(TEXT)
    whole = make(name, packed)
    cuts = list(CsvReader().cut(whole, BIG, settings_of()))
    wrong = bytearray(packed)
    wrong[-6 if name.endswith("gz") else len(packed) // 2] ^= 0xFF
    for damaged in (packed[:-9], packed[: len(packed) // 2], bytes(wrong), TEXT):
        source = make(name, damaged)
        with pytest.raises(SourceError, match=f"{name}: cannot be read as CSV: "):
            list(CsvReader().cut(source, BIG, settings_of()))
    for damaged in (packed[: len(packed) // 2], TEXT):
        with pytest.raises(SourceError, match=f"{name}: cannot be read as CSV: "):
            list(CsvReader().read(make(name, damaged), cuts, ["text"], settings_of()))
    with pytest.raises(SourceError, match="cannot be read as CSV"):
        CsvReader().schema(make(name, packed[:15]), settings_of())


def test_a_file_that_changed_or_is_gone_is_a_source_error(make: Make) -> None:
    source = make("x.csv", b"a,b\n1,2\n3,45\n")
    cuts = list(CsvReader().cut(source, BIG, settings_of()))
    for changed in (b"a,b\n1,2\n3,4", b"a,b\n1,2\n\n\n\n\n\n", b"a,b\n"):
        make("x.csv", changed)
        with pytest.raises(SourceError, match=r"is not what it was|has changed since"):
            list(CsvReader().read(source, cuts, ["a"], settings_of()))
    packed = make("x.csv.gz", gzip.compress(TEXT))
    cuts = list(CsvReader().cut(packed, CutSize(1000, 1000, 10), settings_of()))
    make("x.csv.gz", gzip.compress(TEXT[:500]))
    with pytest.raises(SourceError, match=r"is not what it was|has changed since"):
        list(CsvReader().read(packed, cuts[-1:], ["text"], settings_of()))
    Path(source.url).unlink()
    with pytest.raises(SourceError, match="No such file"):
        CsvReader().schema(source, settings_of())
