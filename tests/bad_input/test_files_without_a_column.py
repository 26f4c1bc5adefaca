"""Files that lack a column the job asks for: planning finds them, and they fail alone."""

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import yaml

from bertbatch.output.folder import open_output
from bertbatch.plan.log import stored_plan
from tests.helpers.command_line import invoke
from tests.helpers.jobs import make_job
from tests.helpers.outputs import sound
from tests.helpers.tiny import make_texts

WRITE = {
    "parquet": pq.write_table,
    "csv": pa.csv.write_csv,
    "arrow": pa.feather.write_feather,
}
KEYS = {"input.carry": ["id", "day"], "input.where": "stars = 'five'"}


def files(folder, kind: str, lacking: str) -> None:
    """Three small files in a folder of a day, which one unit holds; b lacks a column."""
    (folder / "day=1").mkdir(parents=True)
    for name in "abc":
        texts = make_texts(5, seed=ord(name))
        table = pa.table({"id": range(5), "stars": ["five"] * 5, "text": texts})
        table = table.drop_columns([lacking]) if name == "b" else table
        WRITE[kind](table, str(folder / "day=1" / f"{name}.{kind}"))


@pytest.mark.parametrize("kind", list(WRITE))
@pytest.mark.parametrize("lacking", ["id", "stars", "text"])
def test_it_fails_alone_before_any_work(kind, lacking, tiny_model, tmp_path):
    files(tmp_path / "in", kind, lacking)
    job = make_job(tiny_model, tmp_path / "in", tmp_path / "out", **KEYS)
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    reason = f"has no column '{lacking}'; it has: "
    code, said = invoke("plan", str(path))
    assert code == 3
    assert f"refused: {reason}" in said
    assert invoke("run", str(path), "--log", "plain")[0] == 3
    sound(tmp_path / "out", rows_scored=10, rows_quarantined=0)
    output = open_output(str(tmp_path / "out"))
    plan = stored_plan(output, output.existing_contract())
    assert [*plan.sources] == [f"day=1/a.{kind}", f"day=1/c.{kind}"]
    assert not plan.withdrawn
    verified, said = invoke("verify", str(tmp_path / "out"))
    assert verified == 0
    assert f"not scored by the last run: day=1/b.{kind}: {reason}" in said
