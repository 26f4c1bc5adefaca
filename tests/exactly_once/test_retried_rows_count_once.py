"""Rows in quarantine are scored again once their cause is mended, and counted once."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from bertbatch import run
from bertbatch.checks.status import read_status
from bertbatch.checks.verify import verify
from bertbatch.cli import app
from bertbatch.output.folder import open_output
from bertbatch.runtime import worker
from tests.helpers.jobs import make_job
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts

RETRY = {"runtime.retry_quarantined": True}


@pytest.fixture
def fault(monkeypatch):
    """Scoring fails for rows of these token counts, as long as they are in the set."""
    bad: set[int] = set()
    score = worker.scoring.score

    def failing(engine, tokens, first, stop, *rest):
        if bad & set(tokens.lengths[first:stop].tolist()):
            raise ValueError("out of luck")
        return score(engine, tokens, first, stop, *rest)

    monkeypatch.setattr(worker.scoring, "score", failing)
    return bad


@pytest.fixture
def place(tmp_path):
    """Two files with nulls at 10 and 70, and rows of their own lengths at 20, 21 and 80."""
    texts = [text[:20] for text in make_texts(100)]
    texts[20], texts[21], texts[80] = "a " * 40, "a " * 41, "a " * 42
    texts[10] = texts[70] = None
    write_parquet(tmp_path / "in" / "a.parquet", texts[:60], row_group_size=20)
    write_parquet(tmp_path / "in" / "b.parquet", texts[60:], 60)
    return tmp_path


def job(place, model, out="out", **keys):
    fixed = {"input.carry": ["id"], "runtime.unit_rows": 20, "limits.max_quarantined": 1.0}
    return make_job(model, place / "in", place / out, **{**fixed, **keys})


def quarantined(out):
    """The ids in each quarantine file that a part names."""
    output = open_output(str(out))
    found = []
    for part in output.committed().values():
        side = output.footer(part)["side_files"]
        if "quarantine" in side:
            table = pa.ipc.open_file(output.store.read(output.at(side["quarantine"]))).read_all()
            found.append(table["id"].to_pylist())
    return sorted(found)


def test_rows_retried_again_and_again_count_once(place, tiny_model, fault):
    out = place / "out"
    fault.update({42, 43, 44})  # with [CLS] and [SEP]
    first = run(job(place, tiny_model))
    assert (first.totals["rows_scored"], first.totals["rows_quarantined"]) == (95, 5)
    before = {path: path.read_bytes() for path in out.glob("*.parquet")}
    assert run(job(place, tiny_model)).run.rows == 0  # not unless asked

    fault.discard(42)
    fault.discard(44)
    second = run(job(place, tiny_model, **RETRY))
    assert second.exit_code == 0
    assert (second.run.rows_scored, second.run.rows_quarantined) == (2, 3)
    assert (second.totals["rows_in"], second.totals["rows_scored"]) == (100, 97)
    assert second.totals["rows_quarantined"] == 3
    assert {path: path.read_bytes() for path in before} == before  # parts never change

    fault.clear()
    third = run(job(place, tiny_model, **RETRY))
    assert (third.totals["rows_scored"], third.totals["rows_quarantined"]) == (98, 2)
    assert sorted(pd.read_parquet(out)["id"]) == sorted(set(range(100)) - {10, 70})
    verdict = verify(open_output(str(out)))
    assert verdict.problems == []
    assert (verdict.rows_planned, verdict.rows_scored, verdict.rows_quarantined) == (100, 98, 2)
    status = read_status(open_output(str(out)), 9)
    assert (status.rows_done, status.rows_planned, status.quarantined) == (100, 100, 2)
    assert json.loads((out / "_SUCCESS.json").read_text())["rows_scored"] == 98

    # What is left has no other end: it is tried each time that it is asked for, and stays.
    fourth = run(job(place, tiny_model, **RETRY))
    assert (fourth.totals["rows_scored"], fourth.totals["rows_quarantined"]) == (98, 2)
    assert verify(open_output(str(out))).problems == []

    expected = run(job(place, tiny_model, "expected")).to_pandas()
    pd.testing.assert_frame_equal(fourth.to_pandas(), expected, rtol=1e-5)


@pytest.mark.parametrize("planned", [False, True])
def test_rows_of_a_source_that_is_gone_stay_in_quarantine(place, tiny_model, fault, planned):
    """In a unit of several files the others' rows are scored again, and the output is whole."""
    for path in (place / "in").iterdir():
        path.rename(place / path.name)
    texts = pq.read_table(place / "a.parquet")["text"].to_pylist()
    write_parquet(place / "in" / "a.parquet", texts[:30])  # small files share a unit
    write_parquet(place / "in" / "b.parquet", texts[10:30], 30)
    keys = {"runtime.unit_rows": None}
    fault.update({42})
    first = run(job(place, tiny_model, **keys))
    assert (first.totals["units"], first.totals["rows_quarantined"]) == (1, 4)
    fault.clear()
    if planned:  # and the file goes before they are scored
        from bertbatch.runtime.preflight import check_job

        preflight = check_job(job(place, tiny_model, **keys))
        preflight.revisions.plan_retry(preflight.listed)
    (place / "in" / "a.parquet").unlink()
    for _ in range(2):
        again = run(job(place, tiny_model, **keys, **RETRY))
        assert again.exit_code == 0
        assert again.totals["rows_quarantined"] == (4 if planned else 3)
        assert verify(open_output(str(place / "out"))).problems == []
        assert (place / "out" / "_SUCCESS.json").exists()
    write_parquet(place / "in" / "c.parquet", texts[:9], 50)
    later = run(job(place, tiny_model, **keys))
    assert (later.exit_code, later.run.rows) == (0, 9)


def test_two_runs_plan_the_same_rows_once(place, tiny_model, fault):
    fault.update({42})
    run(job(place, tiny_model))
    fault.clear()
    from bertbatch.runtime.preflight import check_job

    one, other = (check_job(job(place, tiny_model, **RETRY)) for _ in range(2))
    for each in (one, other):
        each.revisions.plan_retry(each.listed)
    assert one.plan.units.keys() == other.plan.units.keys()
    assert sum(unit.rows for unit in other.plan.units.values() if unit.retry) == 3
    assert run(job(place, tiny_model)).totals["rows_scored"] == 98  # planned is planned
    assert verify(open_output(str(place / "out"))).problems == []


def test_retried_rows_that_were_never_in_quarantine_are_found(place, tiny_model, fault):
    fault.update({42})
    run(job(place, tiny_model))
    fault.clear()
    run(job(place, tiny_model, **RETRY))
    out = open_output(str(place / "out"))
    from bertbatch.plan.log import Entry, stored_plan
    from bertbatch.units import RetryRows

    plan = stored_plan(out, out.contract())
    entry = Entry([], [], retries=[RetryRows(next(iter(plan.units)), (("a.parquet", 3),))])
    name = out.at("_bertbatch", "plan", f"{plan.size:08d}.json.gz")
    out.store.create(name, entry.encode())
    run(job(place, tiny_model))
    found = verify(out).problems
    assert any("has not in quarantine" in problem for problem in found), found


def test_attention_counts_retried_rows_once(place, tiny_model, fault):
    from bertbatch import load_attention

    keys = {"attention.statistics": "entropy"}
    fault.update({42, 44})
    run(job(place, tiny_model, **keys))
    assert load_attention(str(place / "out"))["rows"].iloc[0] == 96
    fault.clear()
    run(job(place, tiny_model, **keys, **RETRY))
    again = load_attention(str(place / "out"))
    assert again["rows"].iloc[0] == 98
    run(job(place, tiny_model, "whole", **keys))
    whole = load_attention(str(place / "whole"))
    pd.testing.assert_frame_equal(again, whole, rtol=1e-5)
    assert verify(open_output(str(place / "out"))).problems == []


def test_a_repaired_source_is_planned_anew_with_its_retried_rows(place, tiny_model, fault):
    """Rows scored again are withdrawn together with the unit that they are of."""
    fault.update({42})
    first = job(place, tiny_model)
    run(first)
    fault.clear()
    run(job(place, tiny_model, **RETRY))
    from bertbatch.runtime.preflight import check_job

    preflight = check_job(first)
    preflight.revisions.withdraw({"a.parquet"})
    result = run(first)
    assert result.totals["rows_in"] == 100
    assert sorted(pd.read_parquet(place / "out")["id"]) == sorted(set(range(100)) - {10, 70})
    assert verify(open_output(str(place / "out"))).problems == []


def test_the_command_retries_quarantined_rows(place, tiny_model, fault):
    file = place / "job.yaml"
    data = {
        "input": {"path": str(place / "in"), "carry": ["id"]},
        "output": {"path": str(place / "out")},
        "model": {"name": tiny_model},
        "runtime": {"runner": "inline"},
    }
    file.write_text(yaml.safe_dump(data))
    fault.update({42})
    assert CliRunner().invoke(app, ["run", str(file)]).exit_code == 0
    fault.clear()
    done = CliRunner().invoke(app, ["run", str(file), "--retry-quarantined"])
    assert done.exit_code == 0
    assert "100 rows in = 98 scored + 2 quarantined" in done.stdout
