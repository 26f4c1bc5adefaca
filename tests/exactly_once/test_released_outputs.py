"""Outputs of every released version are read, checked, exported and resumed by this one."""

import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

import bertbatch
from bertbatch import run
from bertbatch.cli import app
from bertbatch.output.folder import open_output
from tests.helpers.outputs import predictions, read_side, sound
from tests.helpers.paths import ROOT
from tests.helpers.sources import write_parquet
from tests.helpers.stored_output import JOBS, STORED, stored_job

VERSIONS = sorted(path.name for path in STORED.iterdir())
OUTPUTS = [(version, name) for version in VERSIONS for name in JOBS]


@pytest.fixture(params=OUTPUTS, ids="-".join)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A copy of what a version made, and the name of one of its outputs."""
    version, name = request.param
    shutil.copytree(STORED / version, tmp_path / version)
    return tmp_path / version, name


def command(*words: object) -> str:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done.output


def released() -> set[str]:
    """The versions that the changelog has with a date."""
    headings = re.findall(r"^## (\S+) \((.*)\)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings
    return {version for version, when in headings if when != "unreleased"}


def test_every_release_left_its_outputs():
    assert released() <= set(VERSIONS), "run `python -m tests.helpers.stored_output`"
    assert set(VERSIONS) <= released() | {bertbatch.__version__}


def test_they_are_read(stored, tmp_path):
    folder, name = stored
    out = folder / name
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    sound(out, rows_planned=13, rows_quarantined=2)
    assert "2/2 units, 13/13 rows" in command("status", out)
    command("export", out, tmp_path / "exported.csv", "--with-input", "--job", write_job(stored))
    assert len(pd.read_csv(tmp_path / "exported.csv")) == predictions(out).num_rows
    if name == "statistics":
        command("attention", out, "--to", tmp_path / "heads.parquet")
        assert set(pq.read_table(tmp_path / "heads.parquet")["statistic"].to_pylist()) == {
            "entropy"
        }
    for path in (out / "_bertbatch" / "quarantine").iterdir():
        assert read_side(path)["reason"].to_pylist() == ["text is null"]
    assert {path: path.read_bytes() for path in before} == before


def test_they_are_resumed(stored):
    """With the last part gone, then with a new file: by the names and columns of their version."""
    folder, name = stored
    out = folder / name
    old = predictions(out)
    names = {path.name for path in out.glob("*.parquet")}
    last = max(out.glob("part-b-*"))
    footer = counts(out, last.name)
    assert ("rows_repeated" in footer) == (name == "repeats")
    (out / "_SUCCESS.json").unlink()
    last.unlink()
    result = run(stored_job(folder, name))
    assert (result.exit_code, result.run.units_before, result.run.units) == (0, 1, 1)
    assert {path.name for path in out.glob("*.parquet")} == names
    now = counts(out, last.name)  # stored answers were used again
    assert {key: now[key] for key in footer} == footer
    new = predictions(out)
    assert new.schema.equals(old.schema, check_metadata=False)
    pd.testing.assert_frame_equal(in_order(new), in_order(old), atol=1e-4)
    write_parquet(folder / "in" / "day=2026-01-03" / "c.parquet", ["a new text", "one more"], 13)
    assert run(stored_job(folder, name)).exit_code == 0
    sound(out, rows_planned=15, rows_quarantined=2)


def in_order(rows: Any) -> pd.DataFrame:
    return (
        rows.to_pandas().astype({"source": str}).sort_values(["source", "row"], ignore_index=True)
    )


def counts(out: Path, part: str) -> dict[str, Any]:
    """A part's footer without what names one attempt."""
    footer = open_output(str(out)).footer(part)
    assert footer
    return {key: footer[key] for key in footer.keys() - {"attempt", "side_files", "digests"}}


def write_job(stored: tuple[Path, str]) -> Path:
    """The job's file with paths as they are now."""
    folder, name = stored
    job = yaml.safe_load((folder / f"{name}.yaml").read_text())
    stored_job(folder, name)  # the times of its input
    job["input"]["path"], job["output"]["path"] = str(folder / "in"), str(folder / name)
    job["model"]["name"] = str(folder / "model")
    (folder / "moved.yaml").write_text(yaml.safe_dump(job))
    return folder / "moved.yaml"


@pytest.mark.parametrize("change", ["format_version", "format_version and shape"])
def test_a_later_format_is_refused_by_every_command(change, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(STORED / VERSIONS[-1] / "statistics", out)
    path = out / "_bertbatch" / "job.yaml"
    contract = {**yaml.safe_load(path.read_text()), "format_version": 2}
    if "shape" in change:
        del contract["model"]
    path.write_text(yaml.safe_dump(contract))
    commands = [["status"], ["verify"], ["export"], ["attention"]]
    for words in [*commands, ["score", STORED / VERSIONS[-1] / "in"]]:
        last = [tmp_path / "new.csv"] if words == ["export"] else []
        done = CliRunner().invoke(app, [*map(str, words), str(out), *map(str, last)])
        assert done.exit_code == 2, words
        assert "newer version of bertbatch (format 2" in " ".join(done.output.split()), words
