"""Parquet that takes kilobytes and holds gigabytes: units are bounded by what it holds."""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertbatch.inputs.formats import parquet_cuts
from bertbatch.inputs.formats.parquet import ParquetReader
from bertbatch.inputs.formats.reader import CutSize
from bertbatch.job.input import Input
from bertbatch.model.tokenizer import get_tokenizer
from bertbatch.units import Source
from tests.helpers.jobs import make_job
from tests.helpers.tiny import make_texts

MIB = 1 << 20
USUAL = CutSize(MIB, 64 * MIB, 1 << 16)


def source_of(path: Path) -> Source:
    return Source(path.name, str(path), path.stat().st_size, "1")


def repeated(text: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), [text])


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, store_schema=False, **options)
    return path


def check(path: Path, size: CutSize = USUAL, most: int = 64 * MIB, **keys: Any) -> list[int]:
    """The rows of each cut; none holds more than it may, and together they are the table."""
    options, reader = Input(path=str(path), **keys), ParquetReader()
    cuts = list(reader.cut(source_of(path), size, options))
    columns = list(dict.fromkeys([*options.text_columns, *options.carried.values()]))
    whole = pq.read_table(path, columns=columns) if sum(c.bytes for c in cuts) < 1 << 28 else None
    row = 0
    for cut in cuts:
        (rows,) = reader.read(source_of(path), [cut], columns, options)
        assert rows.row.tolist() == list(range(row, row + cut.rows))
        plain = pa.table(
            [c.cast(c.type.value_type) if pa.types.is_dictionary(c.type) else c
             for c in rows.table.columns], names=columns
        )  # fmt: skip
        assert plain.nbytes <= most or cut.rows == 1
        if whole is not None:
            assert plain.equals(whole.slice(row, cut.rows))
        row += cut.rows
    assert row == pq.read_metadata(path).num_rows
    return [cut.rows for cut in cuts]


def test_a_text_that_each_row_repeats_is_counted_each_time(tmp_path):
    path = write(tmp_path / "in.parquet", {"text": repeated("word " * 10_000, 4000)})
    assert path.stat().st_size < 10_000
    assert 300 < max(check(path)) <= 335
    short = write(tmp_path / "short.parquet", {"text": repeated("word", 4000)})
    assert check(short) == [4000]


def test_carried_columns_and_pairs_count_too(tmp_path):
    columns = {"text": ["a"] * 4000, "b": repeated("word " * 10_000, 4000)}
    path = write(tmp_path / "in.parquet", columns)
    assert 1200 < max(check(path, carry=["b"], most=65 * MIB)) <= 1342
    assert 300 < max(check(path, text_pair="b")) <= 335
    assert check(path) == [4000]


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "dictionary", "runs"])
@pytest.mark.parametrize("groups", [1, 50])
def test_units_are_bounded_whatever_hides_the_size(encoding, groups, tmp_path):
    rows = 2000
    options: dict[str, Any] = {"row_group_size": rows // groups}
    text: Any = [f"{'x' * 50_000}{i % 7}" for i in range(rows)]
    columns = {"text": text}
    if encoding == "DELTA_BYTE_ARRAY":
        options |= {"use_dictionary": False, "column_encoding": {"text": encoding}}
    if encoding == "runs":
        columns = {"text": ["a"] * rows, "list": [[7] * 5000] * rows}
    path = write(tmp_path / "in.parquet", columns, **options)
    assert path.stat().st_size < 2 * MIB
    check(path, carry=["list"] if encoding == "runs" else [])


def test_a_dictionary_that_gives_way_to_plain_values_is_counted(tmp_path):
    plain = [f"{i} {'y' * 3000}" for i in range(1500)]
    path = write(tmp_path / "in.parquet", {"text": ["x" * 50_000] * 8000 + plain})
    assert max(check(path)) < 3000


def test_ordinary_files_are_cut_by_their_footer_as_ever(tmp_path, monkeypatch):
    def never(*arguments: Any) -> Any:
        raise AssertionError("was measured")

    monkeypatch.setattr(parquet_cuts, "_measured", never)
    texts = [t * 20 for t in make_texts(20_000)]
    path = write(tmp_path / "in.parquet", {"text": texts, "kind": ["a", "b"] * 10_000})
    cuts = check(path, carry=["kind"])
    size = pq.read_metadata(path).row_group(0).column(0).total_uncompressed_size
    assert len(cuts) == -(-size // MIB)
    assert max(cuts) - min(cuts) <= 1


VALUES = st.sampled_from(["", "a", "b" * 50, "c" * 300, "d" * 999, None])


@settings(max_examples=120, deadline=None)
@given(
    texts=st.lists(VALUES, min_size=1, max_size=60), times=st.integers(1, 20),
    group=st.integers(1, 500), encoding=st.sampled_from(["DELTA_BYTE_ARRAY", "PLAIN", None]),
    text_bytes=st.integers(200, 5000), rows=st.integers(1, 100),
)  # fmt: skip
def test_any_texts_are_cut_within_bounds(
    texts, times, group, encoding, text_bytes, rows, tmp_path_factory
) -> None:
    options: dict[str, Any] = {"row_group_size": group}
    if encoding:
        options |= {"use_dictionary": False, "column_encoding": {"text": encoding}}
    path = tmp_path_factory.mktemp("sizes") / "in.parquet"
    write(path, {"text": pa.array(texts * times, pa.string())}, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_cuts, "MOST", 4000)
        patch.setattr(parquet_cuts, "MEASURED", 1000)
        size = CutSize(text_bytes, 1 << 20, rows)
        cuts = check(path, size, most=4000 + 4 * 100 + text_bytes + 20 * 20)
    assert max(cuts) <= rows


def test_repeated_texts_are_encoded_as_each_would_be(tiny_model, tmp_path):
    from bertbatch.model.spec import check_model

    spec = check_model(make_job(tiny_model, "x", tmp_path / "out").model)
    tokenizer = get_tokenizer(spec)
    texts = [*make_texts(20, seed=1), "", "x" * 500]
    many = (texts * 4)[::-1]
    seconds = (texts[::-1] * 4)[3:] + texts[:3]
    for rows, pairs in ((many, None), (many, seconds), (["one"] * 5, None), ([], None)):
        once = tokenizer.encode(rows, pairs)
        each = tokenizer._encode(rows, pairs)
        for name in vars(once).keys() - {"types", "spans", "parts", "selection"}:
            assert getattr(once, name).tolist() == getattr(each, name).tolist(), name
            assert getattr(once, name).dtype == getattr(each, name).dtype, name
        assert len(once.sampled) == len(rows)


def first_and_peak(path: Path, model: str, parts: int) -> tuple[float, int]:
    """Seconds to a run's first part, and bytes of memory it had by the time of so many."""
    out = path.with_suffix(".out")
    began, first, peak = time.monotonic(), 0.0, 0
    command = [sys.executable, "-m", "bertbatch", "score", str(path), str(out), "--model", model]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = psutil.Popen([*command, "--runner", "inline"], **silent)
    try:
        while process.poll() is None and len(there := list(out.glob("part-*"))) < parts:
            first = first or (time.monotonic() - began if there else 0.0)
            with suppress(psutil.Error):
                peak = max(peak, process.memory_info().rss)
            time.sleep(0.05)
            assert time.monotonic() - began < 280
    finally:
        with suppress(psutil.Error):  # it may have ended
            process.kill()
        process.wait()
    assert len(list(out.glob("part-*"))) >= min(parts, 1)
    return first, peak


@pytest.mark.slow
@pytest.mark.parametrize("hides", ["dictionary", "DELTA_BYTE_ARRAY"])
def test_memory_is_bounded_by_what_units_hold(hides, tmp_path, tiny_model):
    """The first part within seconds; to the hundredth unit little more than for one word a row."""
    rows = 65_000
    write(tmp_path / "short.parquet", {"text": repeated("word", rows)})
    _, low = first_and_peak(tmp_path / "short.parquet", tiny_model, 2)
    if hides == "dictionary":
        write(tmp_path / "long.parquet", {"text": repeated("word " * 10_000, rows)})
    else:
        options = {"use_dictionary": False, "column_encoding": {"text": hides}}
        schema = pa.schema([("text", pa.string())])
        with pq.ParquetWriter(tmp_path / "long.parquet", schema, **options) as writer:
            for _ in range(13):
                writer.write_table(pa.table({"text": ["word " * 10_000] * 5000}))
    first, high = first_and_peak(tmp_path / "long.parquet", tiny_model, 100)
    assert first < 60
    assert high - low < 500 * MIB
