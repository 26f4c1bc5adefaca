"""An Iceberg table is read at one snapshot; later runs score what came to it, and nothing twice."""

import pyarrow as pa
import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.types import StringType

from bertbatch import JobError
from tests.helpers.jobs import CARRY
from tests.helpers.outputs import sound
from tests.helpers.planning import Killed, dies_after
from tests.helpers.racing_exports import begin_catalog
from tests.helpers.tiny import make_texts

URL = "iceberg://c/n.reviews"


def rows(first: int, count: int) -> pa.Table:
    ids = range(first, first + count)
    texts = make_texts(first + count)[first:]
    return pa.table({"id": pa.array(ids, pa.int64()), "text": texts})


@pytest.fixture
def table(tmp_path, monkeypatch):
    for name in ("URI", "WAREHOUSE"):
        monkeypatch.setenv(f"PYICEBERG_CATALOG__C__{name}", "")
    begin_catalog(tmp_path / "warehouse")
    made = load_catalog("c").create_table("n.reviews", rows(0, 1).schema)
    for first in (0, 20):
        made.append(rows(first, 20))
    return made


def ids(result) -> list[int]:
    return sorted(result.to_pandas()["id"])


def test_a_table_night_after_night(table, runner, tmp_path, score) -> None:
    def night(wanted: int, new: int) -> None:
        result = score(URL, tmp_path / "out", runner, **CARRY)
        assert (result.exit_code, ids(result), result.run.rows) == (0, list(range(wanted)), new)
        sound(tmp_path / "out", rows_scored=wanted)

    night(40, 40)
    night(40, 0)
    table.append(rows(40, 10))
    table.append(rows(50, 10))
    night(60, 20)
    night(60, 0)


def test_an_empty_table_has_nothing_yet(tmp_path, table, score) -> None:
    empty = load_catalog("c").create_table("n.empty", rows(0, 1).schema)
    result = score("iceberg://c/n.empty", tmp_path / "out", **CARRY)
    assert (result.exit_code, result.run.rows) == (0, 0)
    empty.append(rows(0, 3))
    assert ids(score("iceberg://c/n.empty", tmp_path / "out", **CARRY)) == [0, 1, 2]


@pytest.mark.parametrize(
    "change", [lambda t: t.delete("id = 3"), lambda t: t.overwrite(rows(0, 3))]
)
def test_rows_that_were_scored_and_change_are_told_of(change, table, tmp_path, score) -> None:
    score(URL, tmp_path / "out", **CARRY)
    change(table)
    with pytest.raises(JobError, match="deletes or changes rows"):
        score(URL, tmp_path / "out", **CARRY)
    fresh = ids(score(URL, tmp_path / "new", **CARRY))
    assert 3 not in fresh
    sound(tmp_path / "out", rows_scored=40)


def test_rows_that_are_deleted_before_they_are_seen_are_not_scored(table, tmp_path, score) -> None:
    score(URL, tmp_path / "out", **CARRY)
    table.append(rows(40, 10))
    table.delete("id >= 45")
    assert ids(score(URL, tmp_path / "out", **CARRY)) == list(range(45))


def test_a_run_that_was_stopped_goes_on_with_its_snapshot(table, tmp_path, score) -> None:
    with pytest.MonkeyPatch.context() as patch:
        dies_after(1, patch)
        with pytest.raises(Killed):
            score(URL, tmp_path / "out", **CARRY)
    table.append(rows(40, 10))
    assert ids(score(URL, tmp_path / "out", **CARRY)) == list(range(40))
    assert ids(score(URL, tmp_path / "out", **CARRY)) == list(range(50))
    sound(tmp_path / "out", rows_scored=50)


def test_columns_that_had_other_names_are_refused(table, tmp_path, score) -> None:
    with table.update_schema() as update:
        update.rename_column("text", "body")
    with pytest.raises(JobError, match="has a column that was called body and text"):
        score(URL, tmp_path / "out", **{"input.text": "body"})
    with table.update_schema() as update:
        update.rename_column("body", "text")
        update.add_column("more", StringType())
    with pytest.raises(JobError, match="was called body and text"):
        score(URL, tmp_path / "out")


@pytest.mark.parametrize(
    ("path", "keys", "said"),
    [
        ("iceberg://c/nothing", {}, "name a table as"),
        ("iceberg://c/n.nothing", {}, "cannot be reached"),
        ("iceberg://unknown/n.t", {}, "cannot be reached"),
        ("/tmp", {"input.format": "iceberg"}, "must be iceberg://"),
    ],
)
def test_a_table_that_is_not_there_is_told_of(path, keys, said, table, tmp_path, score) -> None:
    with pytest.raises(JobError, match=said) as caught:
        score(path, tmp_path / "out", **keys)
    assert "\n" not in str(caught.value)
