"""Rows that `input.where` leaves out are counted: rows in = left out + scored + quarantined."""

import json

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertbatch import JobError
from bertbatch.checks.verify import verify
from bertbatch.output.folder import open_output
from tests.helpers.jobs import CARRY, make_job
from tests.helpers.outputs import run_and_rescore, sound
from tests.helpers.sources import spoil_a_page
from tests.helpers.tiny import make_texts
from tests.helpers.writers import WRITERS

ROWS = 200
TEXTS = make_texts(ROWS)


def table(first: int = 0) -> pa.Table:
    numbers = range(first, first + ROWS)
    stars = [None if i % 10 == 9 else i % 5 for i in numbers]
    return pa.table({"id": pa.array(numbers, pa.int64()), "text": TEXTS, "stars": stars})


def ids_of(result) -> list[int]:
    return sorted(int(i) for i in result.to_pandas()["id"]) if result.run.rows_scored else []


WANTED = [i for i in range(ROWS) if i % 10 != 9 and i % 5 > 2]


@pytest.mark.parametrize(
    "writer",
    ["parquet by polars", "csv by pandas", "jsonl by polars", "arrow file", "arrow stream"],
)
def test_every_format_and_both_runners(writer, runner, tmp_path, score) -> None:
    rows = table()
    if writer == "arrow stream":
        path = tmp_path / "x.arrows"
        with pa.ipc.new_stream(path, rows.schema) as stream:
            stream.write_table(rows, max_chunksize=9)
    elif writer == "arrow file":
        path = tmp_path / "x.arrow"
        with pa.ipc.new_file(path, rows.schema) as file:
            file.write_table(rows, max_chunksize=9)
    else:
        path = WRITERS[writer](rows, tmp_path)
    # pandas writes whole numbers beside nulls as 3.0
    where = "CAST(stars AS DOUBLE) > 2" if "csv" in writer else "stars > 2"
    keys = {**CARRY, "input.where": where, "runtime.unit_rows": 30}
    result = score(path, tmp_path / "out", runner, **keys)
    assert ids_of(result) == WANTED
    left_out = ROWS - len(WANTED)
    sound(tmp_path / "out", rows_scored=len(WANTED), rows_quarantined=0, rows_left_out=left_out)
    success = json.loads((tmp_path / "out" / "_SUCCESS.json").read_text())
    assert success["rows_in"] == ROWS
    assert success["rows_left_out"] == left_out
    again = score(path, tmp_path / "out", runner, **keys)
    assert (again.exit_code, again.run.units) == (0, 0)
    with pytest.raises(JobError, match=r"input\.where"):
        score(path, tmp_path / "out", runner, **keys | {"input.where": "id > 2"})


def test_answers_are_those_of_the_rows(tmp_path, tiny_model) -> None:
    pq.write_table(table(), tmp_path / "x.parquet", row_group_size=17)
    keys = {**CARRY, "input.where": "stars IN (3, 4)"}
    run_and_rescore(make_job(tiny_model, tmp_path / "x.parquet", tmp_path / "out", **keys), 20)


@pytest.mark.parametrize("limit", [1, 7, 60, 61, 500])
@pytest.mark.parametrize("format_", ["parquet", "csv"])
def test_a_limit_counts_what_is_selected(limit, format_, tmp_path, score) -> None:
    (tmp_path / "in").mkdir()
    for i in range(2):
        rows = table(i * ROWS)
        if format_ == "parquet":
            pq.write_table(rows, tmp_path / "in" / f"{i}.parquet", row_group_size=37)
        else:
            rows.to_pandas().astype({"stars": "Int64"}).to_csv(tmp_path / "in" / f"{i}.csv")
    where = "stars > 2" if format_ == "parquet" else "CAST(stars AS INTEGER) > 2"
    keys = {**CARRY, "input.where": where, "input.limit": limit, "runtime.unit_rows": 50}
    for _ in range(2):  # the second run finds nothing to do
        result = score(tmp_path / "in", tmp_path / "out", **keys)
        assert result.exit_code == 0
    wanted = [i for i in range(2 * ROWS) if i % 10 != 9 and i % 5 > 2][:limit]
    assert sorted(result.to_pandas()["id"].astype(int)) == wanted
    sound(tmp_path / "out", rows_scored=len(wanted), rows_quarantined=0)


def test_a_limit_is_kept_over_runs_that_find_more(tmp_path, score) -> None:
    (tmp_path / "in").mkdir()
    keys = {**CARRY, "input.where": "stars > 2", "input.limit": 100}
    for i in range(3):
        pq.write_table(table(i * ROWS), tmp_path / "in" / f"{i}.parquet")
        result = score(tmp_path / "in", tmp_path / "out", **keys)
    wanted = [i for i in range(3 * ROWS) if i % 10 != 9 and i % 5 > 2][:100]
    assert ids_of_output(result) == wanted


def ids_of_output(result) -> list[int]:
    return sorted(result.to_pandas()["id"])


def test_rows_that_cannot_tell_are_quarantined(tmp_path, score) -> None:
    (tmp_path / "x.csv").write_text("id,text,n\n1,a,5\n2,b,many\n3,c,0\n4,d\n5,e,\n6,f,7\n7,,9\n")
    keys = {**CARRY, "input.where": "CAST(n AS INTEGER) > 3"}
    result = score(tmp_path / "x.csv", tmp_path / "out", **keys)
    assert ids_of(result) == [1, 6]
    sound(tmp_path / "out", rows_scored=2, rows_quarantined=3, rows_left_out=2)
    assert dict(result.run.reasons) == {
        "input.where: CAST(n AS INT) fails for 'many'": 1,
        "has 2 fields, the header has 3": 1,
        "text is null": 1,
    }
    again = score(
        tmp_path / "x.csv", tmp_path / "out", **keys, **{"runtime.retry_quarantined": True}
    )
    assert again.exit_code == 0
    sound(tmp_path / "out", rows_scored=2, rows_quarantined=3, rows_left_out=2)


@pytest.mark.parametrize("where", ["id >= 150 AND stars > 2", "id IN (3, 4, 155)", "id > 9999"])
def test_row_groups_that_cannot_hold_a_row_are_not_read(where, tmp_path, score) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(table(), path, row_group_size=20, compression="none")
    wanted = selected(where)
    groups = {i // 20 for i in wanted}
    for group in set(range(10)) - groups:
        spoil_a_page(path, group)  # reading it would fail
    keys = {**CARRY, "input.where": where, "runtime.unit_rows": 20}
    result = score(path, tmp_path / "out", **keys)
    assert (result.exit_code, ids_of(result)) == (0, wanted)
    sound(tmp_path / "out", rows_scored=len(wanted), rows_left_out=ROWS - len(wanted))


def selected(where: str) -> list[int]:
    connection = duckdb.connect()
    connection.register("rows", table())
    found = connection.execute(f"SELECT id FROM rows WHERE {where} ORDER BY id").fetchall()
    return [row[0] for row in found]


def test_no_row_may_be_left(tmp_path, score) -> None:
    pq.write_table(table(), tmp_path / "x.parquet")
    result = score(tmp_path / "x.parquet", tmp_path / "out", **{"input.where": "stars > 9"})
    assert result.exit_code == 0
    sound(tmp_path / "out", rows_scored=0, rows_quarantined=0, rows_left_out=ROWS)


def test_folder_values_may_be_named(tmp_path, score) -> None:
    for day in ("2026-11-01", "2026-11-02", "__HIVE_DEFAULT_PARTITION__"):
        (tmp_path / "in" / f"day={day}").mkdir(parents=True)
        pq.write_table(table(), tmp_path / "in" / f"day={day}" / "x.parquet")
    keys = {"input.where": "day >= '2026-11-02' AND id < 3", "input.carry": ["id", "day"]}
    found = score(tmp_path / "in", tmp_path / "out", **keys).to_pandas()
    assert found["day"].tolist() == ["2026-11-02"] * 3
    sound(tmp_path / "out", rows_scored=3, rows_left_out=3 * ROWS - 3)


def test_types_stay_those_of_the_first_file(tmp_path, score) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jsonl").write_text(
        '{"id":1,"text":"a","n":1}\n{"id":2,"text":"b","n":5}\n'
    )
    (tmp_path / "in" / "2.jsonl").write_text(
        '{"id":3,"text":"a","n":"9"}\n{"id":4,"text":"b","n":4}\n'
    )
    result = score(tmp_path / "in", tmp_path / "out", **CARRY, **{"input.where": "n > 3"})
    assert ids_of(result) == [2, 4]
    assert list(result.run.reasons) == ["Expected `int | null`, got `str` - at `$.n`"]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (
            "nothing > 1",
            "x.parquet: has no column 'nothing' for input.where; it has: id, text, stars",
        ),
        ("text > 1", "input.where: text > 1 compares a number with text"),
        ("stars", "input.where: stars is a number, not a condition"),
        ("lower(text) = 'a'", "LOWER"),
        ("stars >", "input.where"),
    ],
)
def test_a_wrong_condition_is_told_before_work_starts(where, said, tmp_path, score) -> None:
    pq.write_table(table(), tmp_path / "x.parquet")
    with pytest.raises(JobError) as caught:
        score(tmp_path / "x.parquet", tmp_path / "out", **{"input.where": where})
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_part_that_lost_a_row_is_found(tmp_path, score) -> None:
    """A part counts what is left out: one row less is then one too few."""
    pq.write_table(table(), tmp_path / "x.parquet")
    score(tmp_path / "x.parquet", tmp_path / "out", **CARRY, **{"input.where": "stars > 2"})
    (part,) = (tmp_path / "out").glob("part-*.parquet")
    content = pq.read_table(part)
    pq.write_table(content.slice(1), part, write_page_checksum=True)
    problems = verify(open_output(str(tmp_path / "out"))).problems
    assert any("lost" in problem for problem in problems)


@pytest.mark.parametrize("format_", ["parquet", "csv", "jsonl", "arrow"])
def test_folders_alone_may_be_named_beside_a_limit(format_, tmp_path, score) -> None:
    name = {"parquet": "parquet by polars", "csv": "csv by duckdb", "jsonl": "jsonl by polars"}
    for day in ("1", "2"):
        folder = tmp_path / "in" / f"day={day}"
        folder.mkdir(parents=True)
        WRITERS[name.get(format_, "arrow file")](table().select(["id", "text"]), folder)
    keys = {**CARRY, "input.where": "day = '2'", "input.limit": 5}
    result = score(tmp_path / "in", tmp_path / "out", **keys)
    assert (result.exit_code, result.run.rows_scored) == (0, 5)
    sound(tmp_path / "out", rows_scored=5)


def test_an_empty_shard_has_nothing_to_select(tmp_path, score) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(table().slice(0, 0), tmp_path / "in" / "a.parquet")
    pq.write_table(table(), tmp_path / "in" / "b.parquet")
    keys = {**CARRY, "input.where": "stars > 2", "input.limit": 3}
    result = score(tmp_path / "in", tmp_path / "out", **keys)
    assert (result.exit_code, result.run.rows_scored) == (0, 3)


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("NOT (x < 5)", [2, 3]),
        ("x <> 3", [0, 1, 2, 3]),
        ("(i IN (1, 2)) IS NULL", [2]),
        ("(i IN (1, 2)) IS NOT NULL", [0, 1, 3, 4, 5]),
        ("NOT ((i IN (1)) IS FALSE)", [0, 2]),
    ],
)
@pytest.mark.parametrize("size", [2, 3])
def test_row_groups_are_not_judged_by_what_their_values_leave_out(
    size, where, wanted, tmp_path, score
) -> None:
    """Least and largest values do not tell of NaN, and IN is null for null."""
    nan = float("nan")
    rows = pa.table(
        {
            "text": TEXTS[:6],
            "x": [1.0, 2.0, nan, nan, 3.0, 3.0],
            "i": pa.array([1, 2, None, 3, 4, 5], pa.int64()),
        }
    )
    pq.write_table(rows, tmp_path / "x.parquet", row_group_size=size)
    keys = {"input.where": where, "runtime.unit_rows": size}  # a cut for each group
    result = score(tmp_path / "x.parquet", tmp_path / "out", **keys)
    assert result.to_pandas()["row"].tolist() == wanted
