"""Shards that differ, columns of every type, and names that nobody would choose."""

import json
import os
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from bertbatch.cli import app
from tests.helpers.jobs import CARRY, make_job
from tests.helpers.outputs import answers, by_id, read_side, same_answers, sound
from tests.helpers.sources import WRITE, write_parquet
from tests.helpers.tiny import make_texts


def shards(folder: Path, *tables: pa.Table) -> None:
    folder.mkdir()
    for name, table in zip("abcdef", tables, strict=False):
        pq.write_table(table, folder / f"{name}.parquet")


def test_shards_may_differ_in_order_width_and_kind_of_strings(score, tmp_path):
    """Another order, more columns, narrower integers, other kinds of strings."""
    texts = make_texts(60)
    cuts = [slice(i, i + 10) for i in range(0, 60, 10)]
    ids, strings = (
        [pa.array(range(60))[cut] for cut in cuts],
        [pa.array(texts)[cut] for cut in cuts],
    )
    tables = [
        pa.table({"id": ids[0], "text": strings[0]}),
        pa.table({"text": strings[1], "id": ids[1]}),
        pa.table({"more": ids[2], "id": ids[2], "text": strings[2], "still more": ids[2]}),
    ]
    kinds = [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
    for i, kind in enumerate(kinds, 3):
        tables.append(pa.table({"id": ids[i].cast(pa.int32()), "text": strings[i].cast(kind)}))
    shards(tmp_path / "in", *tables)
    assert score(tmp_path / "in", tmp_path / "out", **CARRY).exit_code == 0
    sound(tmp_path / "out", rows_scored=60, rows_quarantined=0)
    write_parquet(tmp_path / "one.parquet", texts)
    score(tmp_path / "one.parquet", tmp_path / "expected", **CARRY)
    same_answers(answers(tmp_path / "out"), answers(tmp_path / "expected"))


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"ident": [1]}, "has no column 'id'; it has: ident, text"),
        ({"id": [2**40]}, "column 'id' is int64, the output's is int32"),
        ({"id": [1.5]}, "column 'id' is double, the output's is int32"),
        ({"id": [[1]]}, "column 'id' is list<element: int64>, the output's is int32"),
    ],
)
def test_a_shard_whose_carried_column_does_not_fit_fails_alone(odd, reason, score, tmp_path):
    numbers, texts = pa.array(range(20), pa.int32()), pa.array(make_texts(20))
    good = [pa.table({"id": numbers[s], "text": texts[s]}) for s in (slice(10), slice(10, 20))]
    shards(tmp_path / "in", good[0], pa.table({**odd, "text": ["one"]}), good[1])
    result = score(tmp_path / "in", tmp_path / "out", **CARRY)
    assert result.exit_code == 3
    assert list(result.failed_sources) == ["b.parquet"]
    assert reason in result.failed_sources["b.parquet"]
    sound(tmp_path / "out", rows_scored=20, rows_quarantined=0)
    assert answers(tmp_path / "out")["id"].tolist() == list(range(20))


CATEGORY = pa.dictionary(pa.int32(), pa.string())
VALUES = [
    ([0, 10**15], pa.timestamp("us", "Asia/Tokyo")), ([0, 10**18], pa.timestamp("ns", "+05:30")),
    ([0, 10**12], pa.timestamp("ms")), ([Decimal("1.10"), Decimal("-9.99")], pa.decimal128(7, 2)),
    ([Decimal(10) ** 50, Decimal(1)], pa.decimal256(60, 3)), ([0, 86_399 * 10**6], pa.time64("us")),
    ([date(1, 1, 1), date(9999, 12, 31)], pa.date32()), ([1, -(10**12)], pa.duration("ms")),
    ([b"\0\xff", b""], pa.binary()), ([b"\xfe", b""], pa.large_binary()),
    ([b"ab", b"\xff\0"], pa.binary(2)), ([2**64 - 1, 0], pa.uint64()), ([1.5, -2.5], pa.float16()),
    ([[1, None], []], pa.list_(pa.int16())), ([[0.5, None], [1, 2]], pa.list_(pa.float32(), 2)),
    ([["x"], [None]], pa.large_list(pa.large_string())), ([True, False], pa.bool_()),
    ([{"a": 1, "b": ["x"]}, {"a": None}], pa.struct({"a": pa.int64(), "b": pa.list_(pa.string())})),
    ([[("k", 1)], []], pa.map_(pa.string(), pa.int64())), (["x", "y"], CATEGORY),
    ([["x", "y"], ["y"]], pa.list_(CATEGORY)), ([{"c": "x"}, None], pa.struct({"c": CATEGORY})),
    (["x", "longer than twelve"], pa.string_view()), ([b"x", b"y"], pa.binary_view()),
    ([["x", None], []], pa.list_(pa.string_view())), ([["x"], []], pa.list_(pa.binary_view())),
    ([{"a": ["x"]}, None], pa.struct({"a": pa.large_list(pa.string_view())})),
    ([[("x", b"y")], []], pa.map_(pa.string_view(), pa.binary_view())),
    ([["x", "y"], [None, "z"]], pa.list_(pa.string_view(), 2)),
]  # fmt: skip
STORED = {
    pa.string_view(): pa.string(),
    pa.binary_view(): pa.binary(),
    pa.list_(pa.string_view()): pa.list_(pa.string()),
    pa.list_(pa.binary_view()): pa.list_(pa.binary()),
    pa.struct({"a": pa.large_list(pa.string_view())}): pa.struct({"a": pa.large_list(pa.string())}),
    pa.map_(pa.string_view(), pa.binary_view()): pa.map_(pa.string(), pa.binary()),
    pa.list_(pa.string_view(), 2): pa.list_(pa.string(), 2),
}  # pyarrow cannot filter them


def test_values_of_all_types_are_carried_unchanged(score, tmp_path):
    """To the predictions and to the quarantine, which a unit of several shards fills."""
    texts = pa.array([*make_texts(3), None, None, None])
    columns = {}
    for i, ((one, other), kind) in enumerate(VALUES):
        values = pa.array([one, None, other, other, one, None], kind)
        columns[f"v{i}"] = [values, pa.concat_arrays([values[2:], values[:2]])]
    tables = [pa.table({"text": texts, **{n: c[i] for n, c in columns.items()}}) for i in (0, 1)]
    shards(tmp_path / "in", *tables)
    keys = {"input.carry": list(columns), "limits.max_quarantined": 1}
    assert score(tmp_path / "in", tmp_path / "out", **keys).exit_code == 0
    sound(tmp_path / "out", rows_scored=6, rows_quarantined=6)
    (part,) = (tmp_path / "out").glob("*.parquet")
    (file,) = (tmp_path / "out" / "_bertbatch" / "quarantine").iterdir()
    for found, where in ((pq.read_table(part), slice(3)), (read_side(file), slice(3, 6))):
        for name, (_, kind) in zip(columns, VALUES, strict=True):
            expected = pa.chunked_array([c[where] for c in columns[name]])
            expected = expected.cast(STORED.get(kind, kind)).combine_chunks()
            got = found[name].combine_chunks()
            if kind == CATEGORY:
                expected, got = expected.cast(pa.string()), got.cast(pa.string())
            assert got.type == expected.type, kind
            assert got.to_pylist() == expected.to_pylist(), kind


@pytest.mark.parametrize("nested", [False, True])
def test_categories_of_many_shards_may_be_more_than_each_ones_index_holds(nested, score, tmp_path):
    """pandas gives a hundred categories an index of one byte."""
    names = [[f"{i} of {shard}" for i in range(100)] for shard in range(3)]
    numbers = pa.array(range(100), pa.int8())
    categories = [pa.DictionaryArray.from_arrays(numbers, some) for some in names]
    if nested:
        categories = [pa.ListArray.from_arrays(range(101), c) for c in categories]
    texts = pa.array([*make_texts(99), None])  # one of each goes to quarantine
    shards(tmp_path / "in", *(pa.table({"text": texts, "v": c}) for c in categories))
    keys = {"input.carry": ["v"], "limits.max_quarantined": 1}
    assert score(tmp_path / "in", tmp_path / "out", **keys).exit_code == 0
    (part,) = (tmp_path / "out").glob("*.parquet")
    (file,) = (tmp_path / "out" / "_bertbatch" / "quarantine").iterdir()
    for found, those in ((pq.read_table(part), slice(99)), (read_side(file), slice(99, 100))):
        expected = [name for some in names for name in some[those]]
        values = found["v"].to_pylist()
        assert values == ([[name] for name in expected] if nested else expected)


NAMES = [
    *("a b", "it's", 'say "so"', "日本語", "two\nlines", "100%20", "#1", "why?", "a*b", "[x]", "~"),
    *(" ", "back\\slash", "tab\t", "é", "e\u0301", "-rf", "a,b;c&d", "${HOME}", "{date}"),
]
FOLDERS = {
    "k=": "", "k=a=b": "a=b", "k=日本語": "日本語", "k=a%2Fb": "a/b", "k= ": " ", "k='\"": "'\"",
    "k=two\nlines": "two\nlines", "k=a/k=b": "b", "k=2026-01-01 00:00:00": "2026-01-01 00:00:00",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_files_and_folders_may_have_odd_names(kind, score, tmp_path):
    paths = [*(f"k=0/{name}.{kind}" for name in NAMES), *(f"{name}/x.{kind}" for name in FOLDERS)]
    for i, path in enumerate(paths):
        WRITE[kind](tmp_path / "in" / path, make_texts(3, seed=i), 3 * i)
    out, keys = tmp_path / "out", {"input.carry": ["id", "k"], "runtime.unit_rows": 3}
    assert score(tmp_path / "in", out, **keys).exit_code == 0
    sound(out, rows_scored=3 * len(paths), rows_quarantined=0)
    table = by_id(out)[::3]
    assert table["source"].tolist() == paths
    assert table["k"].tolist() == [*["0"] * len(NAMES), *FOLDERS.values()]
    assert score(tmp_path / "in", out, **keys).run.units == 0


@pytest.mark.parametrize(("kind", "listed"), [("parquet", False), ("csv", True)])
def test_a_name_may_be_no_unicode(kind, listed, tmp_path, tiny_model):
    """Linux allows it; the output has it with the byte escaped."""
    WRITE[kind](tmp_path / f"a.{kind}", make_texts(150))
    folder = tmp_path / "in"
    folder.mkdir()
    os.rename(tmp_path / f"a.{kind}", os.fsencode(folder) + f"/caf\xe9.{kind}".encode("latin-1"))
    out = tmp_path / "out"
    job = make_job(tiny_model, [str(folder)] if listed else folder, out, **CARRY)
    job_file = tmp_path / "job.yaml"
    job_file.write_text(json.dumps(job.model_dump(mode="json", exclude_unset=True)))
    done = CliRunner().invoke(app, ["run", str(job_file)])
    assert done.exit_code == 0, done.output
    sound(out, rows_scored=150)
    assert set(answers(out)["source"]) == {f"{folder}/" * listed + f"caf\\udce9.{kind}"}
    (path,) = folder.iterdir()
    path.write_bytes(b"")
    done = CliRunner().invoke(app, ["run", str(job_file)])
    assert done.exit_code == 2
    assert f"caf\\udce9.{kind}) changed after being planned" in done.stderr
    WRITE[kind](folder / f"caf\\udce9.{kind}", make_texts(3))
    done = CliRunner().invoke(app, ["run", str(job_file)])
    assert (done.exit_code, "two files are named" in done.stderr) == (2, True)
