"""What every command says of an output that has not all of its parts, or whose run failed."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bertbatch import run
from bertbatch.checks.status import read_status
from bertbatch.output.folder import open_output
from tests.helpers.command_line import invoke
from tests.helpers.jobs import make_job
from tests.helpers.tiny import make_texts

LOST = "has lost the parts of 1 of 6 units"
KEYS = {"runtime.unit_rows": 10, "input.carry": ["gold"]}


def write(path: Path, texts: list[str | None]) -> None:
    gold = ["positive", "negative"] * (len(texts) // 2)
    pq.write_table(pa.table({"text": pa.array(texts, pa.string()), "gold": gold}), path)


def state(out: Path) -> str:
    return read_status(open_output(str(out)), 1).state


def flat(*words: str) -> str:
    code, said = invoke(*words)
    assert code == 0, said
    return " ".join(said.split())


def test_a_part_that_is_gone_is_missed_by_all(tiny_model, tmp_path):
    write(tmp_path / "in.parquet", make_texts(60))
    out, copy = tmp_path / "out", tmp_path / "copy"
    job = make_job(tiny_model, tmp_path / "in.parquet", out, **KEYS)
    assert run(job).exit_code == 0
    assert run(make_job(tiny_model, tmp_path / "in.parquet", copy, **KEYS)).exit_code == 0
    assert state(out) == "complete"
    sorted(out.glob("*.parquet"))[2].unlink()

    said = flat("status", str(out))
    assert said.startswith("state damaged ")
    assert f"it {LOST} (see bertbatch verify); the same command scores them again" in said
    assert LOST in flat("evaluate", str(out), "--gold", "gold")
    assert LOST in flat("compare", str(copy), str(out))
    assert LOST in flat("export", str(out), str(tmp_path / "to.csv"))
    assert (
        LOST in flat("report", str(out), "--to", str(tmp_path / "r.html"))
        or LOST in (tmp_path / "r.html").read_text()
    )
    assert invoke("verify", str(out))[0] == 3

    assert run(job).exit_code == 0
    assert state(out) == "complete"
    assert LOST not in flat("compare", str(copy), str(out))


def test_a_run_that_failed_though_all_is_committed_says_why(tiny_model, tmp_path):
    texts = [None if i % 3 else text for i, text in enumerate(make_texts(120))]
    write(tmp_path / "in.parquet", texts)
    out = tmp_path / "out"
    job = make_job(tiny_model, tmp_path / "in.parquet", out, **{**KEYS, "runtime.unit_rows": 200})
    assert run(job).exit_code == 3
    said = flat("status", str(out))
    assert said.startswith("state failed ")
    assert "120/120 rows" in said
    assert "allows: see the reasons; raise the limit and run the same command again" in said
    said = flat("evaluate", str(out), "--gold", "gold")
    assert "the output has no run yet that ended well (see bertbatch status)" in said
    assert "80 rows in quarantine: left out" in said
    more = {**KEYS, "runtime.unit_rows": 200, "limits.max_quarantined": 1}
    assert run(make_job(tiny_model, tmp_path / "in.parquet", out, **more)).exit_code == 0
    assert state(out) == "complete"
    assert "advice" not in flat("status", str(out))
