"""Arrow files: the rows whatever the cuts, one error for what is damaged, and never a crash."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertbatch.errors import SourceError
from bertbatch.inputs.formats.arrow import ArrowReader
from bertbatch.inputs.formats.reader import CutSize
from bertbatch.job.input import Input
from bertbatch.units import Source
from tests.helpers.reading import BIG, all_rows, stored

OPTIONS = Input(path="x.arrow", carry=["id"])
COLUMNS = {"text": None, "id": pa.int64()}
TEXTS = ["a", None, "日本", "x" * 50, ""] * 4


def written(stream: bool, sizes: list[int], compression: str | None = None) -> bytes:
    table = pa.table({"other": range(20), "text": TEXTS, "id": range(20)})
    sink = pa.BufferOutputStream()
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with make(sink, table.schema, options=options) as file:
        at = 0
        for size in [*sizes, 20]:
            file.write_table(table.slice(at, size))
            at += size
    return sink.getvalue().to_pybytes()


@settings(max_examples=200, deadline=None)
@given(
    st.booleans(),
    st.lists(st.integers(0, 9), max_size=6),
    st.integers(1, 200),
    st.integers(1, 25),
    st.sampled_from([None, "lz4", "zstd"]),
)
def test_rows_are_all_there_whatever_the_cuts(stream, sizes, text_bytes, rows, compression) -> None:
    source = stored(written(stream, sizes, compression), "x.arrow")
    reader, size = ArrowReader(), CutSize(text_bytes, text_bytes, rows)
    cuts, good, _ = all_rows(reader, source, COLUMNS, OPTIONS, size)
    assert good == [(i, [text, i]) for i, text in enumerate(TEXTS)]
    assert all(cut.rows <= rows for cut in cuts)
    # A read task may begin anywhere.
    for first in range(len(cuts)):
        read = reader.read(source, cuts[first:], COLUMNS, OPTIONS)
        found = [row for each in read for row in each.row.tolist()]
        assert found == list(range(cuts[first].first_row, 20))


@settings(max_examples=400, deadline=None)
@given(st.booleans(), st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=3),
       st.integers(1, 5000))  # fmt: skip
def test_damaged_files_are_errors(stream, changes, length) -> None:
    data = bytearray(written(stream, [7, 7]))
    for at, value in changes:
        data[at % len(data)] = value
    source = stored(bytes(data[: length if length % 3 == 0 else len(data)]), "x.arrow")
    reader = ArrowReader()
    try:
        reader.schema(source, OPTIONS)
        cuts = list(reader.cut(source, BIG, OPTIONS))
        for rows in reader.read(source, cuts, COLUMNS, OPTIONS):
            rows.table["text"].cast(pa.binary()).to_pylist()
    except SourceError as error:
        said = str(error)
    else:
        said = "x.arrow"
    assert said.startswith("x.arrow")
    assert "\n" not in said


def test_rows_are_those_of_polars(tmp_path) -> None:
    """It writes string views and dictionaries."""
    kind = pl.Categorical
    frame = pl.DataFrame({"id": range(20), "text": TEXTS, "c": pl.Series(TEXTS, dtype=kind)})
    frame.write_ipc(tmp_path / "x.arrow")
    source = stored((tmp_path / "x.arrow").read_bytes(), "x.arrow")
    schema = ArrowReader().schema(source, OPTIONS)
    columns = {"text": None, "c": schema.field("c").type}
    _, good, _ = all_rows(ArrowReader(), source, columns, OPTIONS)
    assert [row for _, row in good] == [[text, text] for text in TEXTS]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"FEA1" + bytes(80), "Feather's first version"),
        (b"PAR1" + bytes(80), "a Parquet file"),
        (b"id,text\n1,a\n", "cannot be read as Arrow"),
        (b"", "cannot be read as Arrow"),
    ],
)
def test_another_kind_of_file_is_refused(data, said) -> None:
    with pytest.raises(SourceError, match=said):
        ArrowReader().schema(stored(data, "x.arrow"), OPTIONS)


def test_only_what_is_asked_for_is_read(tmp_path) -> None:
    path = tmp_path / "x.arrow"
    table = pa.table({"text": ["a"] * 9, "large": [np.random.default_rng(0).bytes(1 << 20)] * 9})
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table, max_chunksize=3)
    source = Source("x.arrow", str(path), path.stat().st_size, "1")
    reader, before = ArrowReader(), bytes_read()
    cuts = list(reader.cut(source, CutSize(1, 1, 3), OPTIONS))
    assert len(list(reader.read(source, cuts, {"text": None}, OPTIONS))) == 9
    assert bytes_read() - before < 100_000


def bytes_read() -> int:
    """What this process has read so far."""
    (line,) = (x for x in Path("/proc/self/io").read_text().splitlines() if x.startswith("rchar"))
    return int(line.split()[1])
