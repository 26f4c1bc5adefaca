"""Outputs that an earlier version began stay whole: resumed with their own rules, or refused."""

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from bertbatch import Job, JobError, run
from bertbatch.checks.verify import verify
from bertbatch.output.folder import open_output
from tests.helpers.architectures import save
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts

STORED = Path(__file__).parent / "data" / "begun_by_0_1"
WRITTEN = 1_790_000_000  # when its input was, which is part of the sources' fingerprints


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The first version's output of three units, as if it had been killed before the last."""
    folder = tmp_path / "begun"
    shutil.copytree(STORED, folder)
    for path in (folder / "in").rglob("*.csv"):
        os.utime(path, (WRITTEN, WRITTEN))
    (folder / "out" / "_SUCCESS.json").unlink()
    (last,) = (folder / "out").glob("part-b-*")
    last.unlink()
    return folder


def job(folder: Path, **model: Any) -> Job:
    return Job.build(
        {
            "input": {"path": str(folder / "in"), "carry": ["id", "place"]},
            "output": {"path": str(folder / "out")},
            "limits": {"max_quarantined": 1},
            "model": {
                **{"name": str(folder / "model"), "dtype": "float32", "max_length": 64},
                **model,
            },
            "runtime": {"runner": "inline", "unit_rows": 2},
        }
    )


def test_an_old_output_resumes_and_verifies(begun, caplog):
    undisturbed = {p.name for p in (STORED / "out").glob("*.parquet")}
    with caplog.at_level("INFO", "bertbatch"):
        result = run(job(begun))
    assert result.exit_code == 0
    assert (result.run.units_before, result.run.units) == (2, 1)
    assert {path.name for path in (begun / "out").glob("*.parquet")} == undisturbed
    for name in undisturbed:
        old, new = (pq.read_table(root / "out" / name) for root in (STORED, begun))
        assert old.schema.equals(new.schema)
        for column in ("row", "id", "place", "label", "n_tokens"):
            assert old[column].to_pylist() == new[column].to_pylist()
        for a, b in zip(old["scores"].to_pylist(), new["scores"].to_pylist(), strict=True):
            assert a == pytest.approx(b, abs=1e-4)
    places = result.to_pandas()["place"]
    assert set(places) == {"north%2Fwest", "south"}  # as it was begun: not decoded
    assert "such as place=north%2Fwest; a new output has them decoded" in caplog.text
    assert verify(open_output(str(begun / "out"))).right


def test_a_new_output_has_the_new_rules(begun):
    shutil.rmtree(begun / "out")
    result = run(job(begun))
    assert set(result.to_pandas()["place"]) == {"north/west", "south"}
    contract = yaml.safe_load((begun / "out" / "_bertbatch" / "job.yaml").read_text())
    assert contract["rules"] == {"hive": 1, "answers": 1}


@pytest.mark.parametrize("kind", ["mobilebert", "bert"])
def test_answers_that_would_now_be_others_are_refused(kind, tmp_path):
    """An output from before, of a model whose rows must not be padded together."""
    save(kind, tmp_path / "model")
    texts = make_texts(40)
    write_parquet(tmp_path / "in" / "a.parquet", texts[:20])
    wanted = job(tmp_path, max_length=60).model_copy()
    wanted = wanted.model_copy(update={"input": wanted.input.model_copy(update={"carry": []})})
    assert run(wanted).exit_code == 0
    path = tmp_path / "out" / "_bertbatch" / "job.yaml"
    contract = yaml.safe_load(path.read_text())
    del contract["rules"]  # as the first version wrote it
    path.write_text(yaml.safe_dump(contract))
    write_parquet(tmp_path / "in" / "b.parquet", texts[20:])
    before = sorted(p.name for p in (tmp_path / "out").iterdir())
    if kind == "bert":
        assert run(wanted).exit_code == 0
        return
    with pytest.raises(JobError, match=r"started by an earlier version.*rows of equal length"):
        run(wanted)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == before


def test_an_output_of_a_later_version_is_refused(begun):
    path = begun / "out" / "_bertbatch" / "job.yaml"
    contract = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**contract, "rules": {"hive": 1, "answers": 2}}))
    with pytest.raises(JobError, match="newer version"):
        run(job(begun))
