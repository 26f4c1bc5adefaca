"""Carried columns: folders' values, names that differ in case or are there twice, any type."""

import datetime as dt
import logging
from operator import add
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bertbatch import JobError
from bertbatch.errors import SourceError
from bertbatch.inputs.formats import int96
from bertbatch.inputs.formats.parquet import ParquetReader
from bertbatch.inputs.formats.reader import CutSize
from bertbatch.inputs.rows import Types, read_units
from bertbatch.inputs.typed_columns import column_types
from bertbatch.job.input import Input
from bertbatch.output.contract import RULES
from bertbatch.storage.stores import connect
from bertbatch.units import Source, Span, Unit
from tests.helpers.jobs import make_job
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts

NULL = "__HIVE_DEFAULT_PARTITION__"


def source_of(path: Path) -> Source:
    store, name = connect(str(path))
    info = store.info(name)
    return Source(path.name, name, info.size, info.stamp)


@settings(max_examples=60, deadline=None)
@given(value=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8))
def test_folders_values_are_those_of_duckdb(value: str, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("hive")
    path = folder / f"k={quote(value, safe='')}" / "p.parquet"
    write_parquet(path, ["x"])
    assert carried_from(path, "k") == [value]
    got = duckdb.sql(
        f"select k from read_parquet('{folder}/*/*', hive_partitioning=true, "
        "hive_types_autocast=false)"
    ).fetchall()
    assert got == [(value,)]


def carried_from(path: Path, *names: str, rules: Any = None) -> list[Any]:
    """The first carried column's values, as they come from the reading."""
    options = Input(path=str(path), carry=list(names))
    source, reader = source_of(path), ParquetReader()
    carried = column_types(options.carried, "to carry", source, reader.schema(source, options))
    cuts = reader.cut(source, CutSize(1 << 30, 1 << 30, 1 << 30), options)
    unit = Unit("u", tuple(Span(source, cut) for cut in cuts))
    rules = RULES if rules is None else rules
    ((_, chunks),) = read_units(reader, options, Types(carried, pa.schema([])), [unit], rules)
    tables = [chunk.carried for chunk in chunks] + [
        chunk.bad.select(chunk.carried.column_names) for chunk in chunks
    ]
    return list(pa.concat_tables(tables).column(0).to_pylist())


def test_folders_values_as_in_a_dataset(score, tmp_path):
    raw = ["a%2Fb", NULL, "2020-01-01 00%3A00%3A00", "100%", "a+b", "%E6%97%A5", "x=y"]
    for value in raw:
        write_parquet(tmp_path / "in" / f"k={value}" / "p.parquet", ["x"])
    table = score(tmp_path / "in", tmp_path / "out", **{"input.carry": ["k"]}).to_pandas()
    got = {None if value != value else value for value in table["k"]}
    assert got == set(ds.dataset(tmp_path / "in", partitioning="hive").to_table()["k"].to_pylist())
    write_parquet(tmp_path / "bad" / "k=%FF" / "p.parquet", ["x"])
    result = score(tmp_path / "bad", tmp_path / "out2", **{"input.carry": ["k"]})
    assert "UTF-8" in result.failed_sources["k=%FF/p.parquet"]


def test_an_old_output_keeps_folders_values_as_it_began(score, tmp_path, caplog):
    keys = {"input.carry": ["k"]}
    write_parquet(tmp_path / "in" / "k=a%2Fb" / "p.parquet", ["x"])
    score(tmp_path / "in", tmp_path / "out", **keys)
    contract = tmp_path / "out" / "_bertbatch" / "job.yaml"
    content = yaml.safe_load(contract.read_text())
    assert content.pop("rules")["hive"] == 1
    contract.write_text(yaml.safe_dump(content))  # as older versions wrote it
    next((tmp_path / "out").glob("part-*")).unlink()
    write_parquet(tmp_path / "in" / f"k={NULL}" / "p.parquet", ["x"])
    with caplog.at_level(logging.INFO):
        table = score(tmp_path / "in", tmp_path / "out", **keys).to_pandas()
    assert sorted(table["k"]) == [NULL, "a%2Fb"]
    assert len([m for m in caplog.messages if "keeps them as they are" in m]) == 1
    contract.write_text(yaml.safe_dump({**content, "rules": {"hive": 2}}))
    with pytest.raises(JobError, match="started by a newer version"):
        score(tmp_path / "in", tmp_path / "out", **keys)


@pytest.mark.parametrize(
    ("carry", "words"),
    [
        (["Label"], "Label:Label_in"), (["a:SCORE"], "output column"), (["Attn_x"], "Attn_x_in"),
        (["id", "ID"], "carried twice"), (["a:ß", "b:SS"], "carried twice"),
    ],
)  # fmt: skip
def test_names_that_differ_only_in_case_are_refused(carry, words):
    with pytest.raises(JobError, match=words):
        make_job("sentiment-mini", "x", "y", **{"input.carry": carry})


def test_names_in_a_file_may_differ_in_case(score, tmp_path):
    table = {"Text": [1, 2], "text": ["a", "b"], "ID": ["x", "y"], "id": ["1", "2"]}
    pq.write_table(pa.table(table), tmp_path / "in.parquet")
    (tmp_path / "in.csv").write_text("Text,text,ID,id\n1,a,x,1\n2,b,y,2\n")
    for name in ("in.parquet", "in.csv"):
        keys = {"input.carry": ["id", "ID:other"]}
        table = score(tmp_path / name, tmp_path / f"out-{name}", **keys).to_pandas()
        assert table["id"].tolist() == ["1", "2"]
        assert table["other"].tolist() == ["x", "y"]


def test_columns_of_one_name_harm_only_who_asks_for_them(score, tmp_path):
    texts = make_texts(3)
    arrays = [pa.array(texts), pa.array([1, 2, 3]), pa.array([4, 5, 6]), pa.array([{"x": 1}] * 3)]
    table = pa.Table.from_arrays(arrays, names=["text", "x", "x", "s"])
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.rename_columns(["text", "text", "x", "s"]), tmp_path / "b.parquet")
    (tmp_path / "c.csv").write_text("text,x,x,,\na,1,2,,\n")
    assert score(tmp_path / "a.parquet", tmp_path / "o1").totals["rows_scored"] == 3
    assert score(tmp_path / "c.csv", tmp_path / "o2").totals["rows_scored"] == 1
    for name, keys, column in (
        ("a.parquet", {"input.carry": ["x"]}, "x"), ("b.parquet", {}, "text"),
        ("c.csv", {"input.carry": ["x"]}, "x"),
    ):  # fmt: skip
        with pytest.raises(JobError, match=f"has 2 columns named '{column}'"):
            score(tmp_path / name, tmp_path / "no", **keys)


def test_a_shard_with_a_column_twice_fails_alone(score, tmp_path):
    write_parquet(tmp_path / "in" / "a.parquet", ["x"])
    arrays = [pa.array(["x"]), pa.array([1]), pa.array([2])]
    table = pa.Table.from_arrays(arrays, names=["text", "id", "id"])
    pq.write_table(table, tmp_path / "in" / "b.parquet")
    result = score(tmp_path / "in", tmp_path / "out", **{"input.carry": ["id"]})
    assert result.exit_code == 3
    assert "2 columns named 'id'" in result.failed_sources["b.parquet"]


def test_what_is_kept_of_a_changed_file_is_named(score, tmp_path, caplog):
    write_parquet(tmp_path / "in" / "a.parquet", ["x"])
    write_parquet(tmp_path / "in" / "b.parquet", ["x"])
    score(tmp_path / "in", tmp_path / "out")
    write_parquet(tmp_path / "in" / "a.parquet", ["x", "y"])
    with caplog.at_level(logging.INFO):
        score(tmp_path / "in", tmp_path / "out", **{"input.on_changed_source": "keep"})
    (said,) = [m for m in caplog.messages if "old answers are kept" in m]
    assert "a.parquet" in said
    assert "b.parquet" not in said


DAY, SECOND = 86_400 * 10**6, 10**6
FIRST, LAST = -62_135_596_800 * SECOND, 253_402_300_799 * SECOND  # the years 1 and 9999


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    values=st.lists(st.none() | st.integers(FIRST, LAST) | st.sampled_from([FIRST, LAST, 0, 1]),
                    min_size=1, max_size=6),
    spark=st.booleans(), nested=st.booleans(),
)  # fmt: skip
def test_int96_times_are_right_or_refused(values, spark, nested, tmp_path_factory) -> None:
    times = pa.array(values, pa.timestamp("us"))
    check_int96(tmp_path_factory.mktemp("int96"), times, spark, nested)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    values=st.lists(st.none() | st.integers(-(2**63) + 1, 2**63 - 1), min_size=1, max_size=6),
    spark=st.booleans(), nested=st.booleans(),
)  # fmt: skip
@example(values=[-9_223_372_036_854_775_001], spark=True, nested=False)
def test_int96_times_of_nanoseconds_are_right_or_refused(
    values, spark, nested, tmp_path_factory
) -> None:
    times = pa.array(values, pa.timestamp("ns"))
    check_int96(tmp_path_factory.mktemp("int96"), times, spark, nested)


def check_int96(folder: Path, times: pa.Array, spark: bool, nested: bool) -> None:
    column: pa.Array = times
    if nested:
        column = pa.ListArray.from_arrays(pa.array(range(len(times) + 1), pa.int32()), times)
    path = folder / "in.parquet"
    table = pa.table({"ts": column, "text": ["x"] * len(times)})
    pq.write_table(table, path, use_deprecated_int96_timestamps=True, store_schema=False)
    if spark:  # pyarrow does not let one say who has written a file
        maker = pq.read_metadata(path).created_by.encode()
        path.write_bytes(path.read_bytes().replace(maker, b"parquet-mr".ljust(len(maker))))
    try:
        got = carried_from(path, "ts")
    except SourceError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert "'ts'" in said
        assert not (times.type.unit == "us" and spark and not nested)  # as Spark writes them
        return
    scale = {"us": 1000, "ns": 1}[times.type.unit]
    flat = [v[0] if nested else v for v in got]
    ticks = [None if v is None else v.value if hasattr(v, "value") else round_ns(v) for v in flat]
    assert ticks == [None if v is None else v * scale for v in times.cast(pa.int64()).to_pylist()]


@given(
    st.lists(
        st.none()
        | st.integers(FIRST * 1000, LAST * 1000)
        | st.integers(FIRST, LAST).map(lambda micros: micros * 1000)
        | st.builds(add, st.sampled_from([-(2**63), 2**63, 0]), st.integers(-1500, 1500)),
        max_size=3,
    )
)
def test_int96_times_are_exact_or_refused(times) -> None:
    """Also those that pyarrow cannot write: finer than microseconds, outside of nanoseconds."""
    wrapped = [None if t is None else (t + 2**63) % 2**64 - 2**63 for t in times]
    micro = pa.array([None if t is None else t // 1000 for t in times], pa.timestamp("us"))
    nano = pa.array(wrapped, pa.timestamp("ns"))
    known = [t for t in times if t is not None]
    try:
        got = int96.exact("ts", "x", pa.chunked_array([micro]), pa.chunked_array([nano]))
    except SourceError:
        assert any(t % 1000 for t in known)
        assert any(abs(t) >= 2**63 for t in known)
        return
    scale = {"us": 1000, "ns": 1}[got.type.unit]
    ticks = got.cast(pa.int64()).to_pylist()
    assert [None if t is None else t * scale for t in ticks] == times


def round_ns(value: dt.datetime) -> int:
    delta = value.replace(tzinfo=None) - dt.datetime(1970, 1, 1)
    return ((delta.days * 86_400 + delta.seconds) * 10**6 + delta.microseconds) * 1000
