"""A Delta table is read at one version; later runs score what came to it, and nothing twice."""

import shutil

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from bertbatch import JobError
from tests.helpers.command_line import invoke
from tests.helpers.jobs import CARRY
from tests.helpers.outputs import sound
from tests.helpers.planning import Killed, dies_after
from tests.helpers.tiny import make_texts


def rows(first: int, count: int) -> pa.Table:
    ids = range(first, first + count)
    texts = make_texts(first + count)[first:]
    days = [f"day {i % 2}/x" for i in ids]
    return pa.table({"id": pa.array(ids, pa.int64()), "text": texts, "day": days})


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table"
    for first in (0, 20):
        write_deltalake(path, rows(first, 20), mode="append", partition_by=["day"])
    return path


def ids(result) -> list[int]:
    return sorted(result.to_pandas()["id"])


def test_a_table_night_after_night(table, runner, tmp_path, score) -> None:
    keys = {"input.carry": ["id", "day"], "input.format": "delta"}

    def night(wanted: int, new: int) -> None:
        result = score(table, tmp_path / "out", runner, **keys)
        assert result.exit_code == 0
        assert ids(result) == list(range(wanted))
        assert result.run.rows == new
        assert set(result.to_pandas()["day"]) == {"day 0/x", "day 1/x"}
        sound(tmp_path / "out", rows_scored=wanted)

    night(40, 40)
    night(40, 0)
    DeltaTable(table).optimize.compact()  # moves rows, and adds none
    night(40, 0)
    write_deltalake(table, rows(40, 10), mode="append")
    write_deltalake(table, rows(50, 10), mode="append")
    DeltaTable(table).optimize.compact()  # before anybody has seen the new ones
    night(60, 20)
    write_deltalake(table, rows(60, 5), mode="append")
    night(65, 5)
    night(65, 0)


def test_rows_that_are_deleted_before_they_are_seen_are_not_scored(table, tmp_path, score) -> None:
    score(table, tmp_path / "out", **CARRY)
    write_deltalake(table, rows(40, 10), mode="append")
    write_deltalake(table, rows(50, 10), mode="append")
    DeltaTable(table).delete("id >= 45 and id < 60")
    result = score(table, tmp_path / "out", **CARRY)
    assert ids(result) == list(range(45))


BUT_THREE = [i for i in range(40) if i != 3]


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda t: DeltaTable(t).delete("id = 3"), BUT_THREE),
        (lambda t: DeltaTable(t).update({"text": "'x'"}, predicate="id = 3"), [*range(40)]),
        (lambda t: write_deltalake(t, rows(0, 3), mode="overwrite"), [0, 1, 2]),
        (lambda t: (DeltaTable(t).optimize.compact(), DeltaTable(t).delete("id = 3")), BUT_THREE),
    ],
)
def test_rows_that_were_scored_and_change_are_told_of(
    change, wanted, table, tmp_path, score
) -> None:
    score(table, tmp_path / "out", **CARRY)
    change(table)
    with pytest.raises(JobError, match=r"version \d deletes or changes|deletes or changes rows"):
        score(table, tmp_path / "out", **CARRY)
    assert ids(score(table, tmp_path / "new", **CARRY)) == wanted
    sound(tmp_path / "out", rows_scored=40)


def test_a_run_that_was_stopped_goes_on_with_its_version(table, tmp_path, score) -> None:
    """Its files are still there, although the table no longer names them."""
    with pytest.MonkeyPatch.context() as patch:
        dies_after(2, patch)
        with pytest.raises(Killed):
            score(table, tmp_path / "out", **CARRY)
    DeltaTable(table).optimize.compact()
    write_deltalake(table, rows(40, 10), mode="append")
    assert ids(score(table, tmp_path / "out", **CARRY)) == list(range(40))
    assert ids(score(table, tmp_path / "out", **CARRY)) == list(range(50))
    sound(tmp_path / "out", rows_scored=50)


def test_a_table_is_read_at_a_limit_over_nights(table, tmp_path, score) -> None:
    keys = {**CARRY, "input.limit": 30}
    for _ in range(2):
        assert len(ids(score(table, tmp_path / "out", **keys))) == 30
        DeltaTable(table).optimize.compact()


def test_what_cannot_be_read_right_is_refused_by_name(table, tmp_path, score) -> None:
    with pytest.raises(JobError, match="there is no Delta table there"):
        score(tmp_path, tmp_path / "out", **{"input.format": "delta"})
    with pytest.raises(JobError, match="is a Delta table, whose files"):
        score(f"{table}/*", tmp_path / "out")
    with pytest.raises(JobError, match="lies inside"):
        score(table, table / "out")
    mapped = tmp_path / "mapped"
    DeltaTable.create(
        mapped, pa.schema([("text", pa.string())]),
        configuration={"delta.columnMapping.mode": "none"},
    )  # fmt: skip
    log = mapped / "_delta_log" / f"{0:020d}.json"
    log.write_text(log.read_text().replace('"none"', '"name"'))
    with pytest.raises(JobError, match=r"maps its columns by name|is no Delta table to read"):
        score(mapped, tmp_path / "out")
    score(table, tmp_path / "out", **CARRY)
    shutil.rmtree(table)
    write_deltalake(table, rows(0, 5))
    with pytest.raises(JobError, match="another table than the one planned"):
        score(table, tmp_path / "out", **CARRY)


def test_a_log_that_was_cleaned_is_told_of(table, tmp_path, score) -> None:
    score(table, tmp_path / "out", **CARRY)
    for i in range(3):
        write_deltalake(table, rows(40 + i, 1), mode="append")
    DeltaTable(table).create_checkpoint()
    (table / "_delta_log" / f"{3:020d}.json").unlink()
    with pytest.raises(JobError, match="no longer has version 3"):
        score(table, tmp_path / "out", **CARRY)


def test_files_that_were_vacuumed_are_told_of(table, tmp_path, score) -> None:
    next(table.rglob("*.parquet")).unlink()
    with pytest.raises(JobError, match="which is not there; was it vacuumed"):
        score(table, tmp_path / "out", **CARRY)


def test_the_command_reads_one(table, tmp_path, tiny_model) -> None:
    out = tmp_path / "out"
    command = ["score", str(table), str(out), "--model", tiny_model, "--runner", "inline"]
    code, said = invoke(*command, "--where", "day = 'day 1/x'", "--carry", "*")
    assert code == 0, said
    assert "40 rows in = 20 scored + 0 quarantined + 20 left out" in said
