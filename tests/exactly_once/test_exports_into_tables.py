"""Each row arrives once in a Delta or an Iceberg table, whoever else writes to it, whoever dies."""

import multiprocessing
import random
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from bertbatch import JobError
from bertbatch.exports.export import Request, export
from tests.helpers.command_line import invoke
from tests.helpers.jobs import CARRY
from tests.helpers.racing_exports import (
    OTHERS,
    begin_catalog,
    export_into,
    exporter,
    other_writer,
    rows_in,
    target_of,
)
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts

spawn = multiprocessing.get_context("spawn")  # delta-rs does not survive a fork
KINDS = ["delta", "iceberg"]


@pytest.fixture
def output(tmp_path, score):
    """Nine parts of ten rows, which make three batches."""
    write_parquet(tmp_path / "in" / "a.parquet", make_texts(90), row_group_size=10)
    score(tmp_path / "in", tmp_path / "out", **CARRY, **{"runtime.unit_rows": 10})
    return tmp_path / "out"


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name in ("URI", "WAREHOUSE"):
        monkeypatch.setenv(f"PYICEBERG_CATALOG__C__{name}", "")
    begin_catalog(tmp_path / "tables")
    return tmp_path / "tables"


def wanted(rows: int = 90, others: int = 0) -> Counter[tuple[str, int]]:
    ours = {("a.parquet", i): 1 for i in range(rows)}
    return Counter({**ours, **{("other", i): 1 for i in range(others)}})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", [(), ("label",)])
def test_again_adds_what_is_new(kind, by, output, root, tmp_path, score) -> None:
    request = Request(
        str(output), target_of(kind, root, 0), None if kind == "iceberg" else kind, by
    )
    assert export(request).rows_added == 90
    assert rows_in(kind, root, 0) == wanted()
    assert export(request).rows_added == 0
    write_parquet(tmp_path / "in" / "b.parquet", make_texts(7))
    score(tmp_path / "in", output, **CARRY, **{"runtime.unit_rows": 10})
    assert export(request).rows_added == 7
    assert rows_in(kind, root, 0).total() == 97
    assert max(rows_in(kind, root, 0).values()) == 1


def test_the_rows_are_those_of_the_output(output, root) -> None:
    from deltalake import DeltaTable

    for kind in KINDS:
        export_into(kind, root, 0, str(output))
    import pandas as pd
    from pyiceberg.catalog import load_catalog

    theirs = pd.concat(map(pd.read_parquet, sorted(output.glob("part-*.parquet"))))
    for table in (
        pa.table(DeltaTable(target_of("delta", root, 0)).scan()),
        load_catalog("c").load_table("n.t0").scan().to_arrow(),
    ):
        found = table.to_pandas().sort_values("row")
        for name in ("id", "label", "score", "n_tokens", "truncated"):
            assert found[name].tolist() == theirs[name].tolist()
        assert [list(x) for x in found["scores"]] == [list(x) for x in theirs["scores"]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", [(), ("label",)])
@pytest.mark.parametrize(
    "races", [3, pytest.param(100, marks=[pytest.mark.faults, pytest.mark.timeout(1800)])]
)
def test_racing_exports_bring_each_row_once(kind, by, races, output, root) -> None:
    """Two exporters and another writer, on many tables."""
    barrier = spawn.Barrier(3)
    tables = range(races)
    workers = [
        spawn.Process(target=exporter, args=(kind, root, tables, str(output), by, barrier))
        for _ in range(2)
    ]
    workers.append(spawn.Process(target=other_writer, args=(kind, root, tables, barrier)))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(1500)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    for i in tables:
        assert rows_in(kind, root, i) == wanted(others=OTHERS), i


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "rounds", [3, pytest.param(25, marks=[pytest.mark.faults, pytest.mark.timeout(1800)])]
)
def test_killed_exports_bring_each_row_once(kind, rounds, output, root) -> None:
    draw = random.Random(2)
    killed = 0
    for i in range(rounds):
        records = output / "_bertbatch" / "exports"
        before = len(list(records.glob("*/*.json")))
        barrier = spawn.Barrier(1)
        args = (kind, root, range(i, i + 1), str(output), (), barrier)
        process = spawn.Process(target=exporter, args=args)
        process.start()
        # A batch is just being written.
        while process.is_alive() and len(list(records.glob("*/*.json"))) <= before + i % 3:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.04))
        process.kill()
        process.join()
        killed += process.exitcode != 0
        export_into(kind, root, i, str(output))
        assert rows_in(kind, root, i) == wanted(), i
        export_into(kind, root, i, str(output))
        assert rows_in(kind, root, i) == wanted(), i
    assert killed


def test_what_cannot_be_written_is_told(output, root, tmp_path) -> None:
    wrong = [
        ("iceberg://c/nothing", "name a table as iceberg://CATALOG/NAMESPACE.TABLE"),
        ("iceberg://c/nowhere.t", "there is no such namespace"),
        ("iceberg://unknown/n.t", "cannot be reached"),
    ]
    for target, said in wrong:
        with pytest.raises(JobError, match=said):
            export(Request(str(output), target))
    with pytest.raises(JobError, match="name the table as iceberg"):
        export(Request(str(output), str(tmp_path / "x"), "iceberg"))
    with pytest.raises(JobError, match="there are parquet, csv"):
        export(Request(str(output), str(tmp_path / "x"), "orc"))
    code, text = invoke("export", str(output), str(tmp_path / "out"), "--format", "delta")
    assert (code, text.count("\n")) == (2, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_of_other_columns_or_partitions_is_refused(
    kind, output, root, score, tmp_path
) -> None:
    export_into(kind, root, 0, str(output))
    with pytest.raises(JobError, match="is partitioned by nothing"):
        export_into(kind, root, 0, str(output), ("label",))
    score(tmp_path / "in", tmp_path / "more", **{"input.carry": ["id:other"]})
    with pytest.raises(JobError) as caught:
        export_into(kind, root, 0, str(tmp_path / "more"))
    assert "\n" not in str(caught.value)
    assert rows_in(kind, root, 0) == wanted()


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_that_was_restored_is_refused(kind, output, root, tmp_path) -> None:
    """It no longer knows which rows a table has."""
    export_into(kind, root, 0, str(output))
    for path in sorted(Path(output, "_bertbatch", "exports").glob("*/*.json"))[-1:]:
        path.unlink()
    with pytest.raises(JobError, match="which knows"):
        export_into(kind, root, 0, str(output))


def test_a_folder_of_other_files_becomes_no_table(output, tmp_path) -> None:
    write_parquet(tmp_path / "theirs" / "x.parquet", ["a"])
    with pytest.raises(JobError, match="holds files, and is no Delta table"):
        export(Request(str(output), str(tmp_path / "theirs"), "delta"))
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["x.parquet"]
