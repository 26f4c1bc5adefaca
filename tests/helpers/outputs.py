"""What an output holds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from bertbatch import Job, run
from bertbatch.checks.rescore import rescore
from bertbatch.checks.verify import verify
from bertbatch.output.folder import open_output
from bertbatch.runtime.result import Result


def answers(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out).sort_values("id", ignore_index=True)


def predictions(output: Path) -> pa.Table:
    """All rows, in order; pandas would lose the type of lists."""
    table = ds.dataset([str(path) for path in output.glob("*.parquet")]).to_table()
    return table.sort_by("row")


def sound(out: Path, **known: int) -> None:
    """Nothing lost, doubled or harmed, and the totals as given."""
    verdict = verify(open_output(str(out)))
    assert verdict.problems == []
    for name, value in known.items():
        assert getattr(verdict, name) == value, name


def run_and_rescore(job: Job, rows: int) -> Result:
    """Runs a job, whose output is found to be whole, and its answers to be those of the model."""
    result = run(job)
    verdict = verify(open_output(job.output.path))
    rescore(job, job.output.path, rows, verdict)
    assert verdict.problems == []
    assert verdict.rescored
    return result


def same_answers(got: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert got["id"].tolist() == expected["id"].tolist()
    assert got["label"].tolist() == expected["label"].tolist()
    np.testing.assert_allclose(np.stack(got["scores"]), np.stack(expected["scores"]), atol=1e-5)


def by_id(out: Path) -> pd.DataFrame:
    """The answers with numbers for ids, which CSV has as text."""
    return answers(out).astype({"id": int}).sort_values("id", ignore_index=True)


def quarantine(out: Path) -> list[dict]:
    files = sorted((out / "_bertbatch" / "quarantine").glob("*.arrow"))
    return [row for file in files for row in read_side(file).to_pylist()]


def read_side(file: Path) -> pa.Table:
    return pa.ipc.open_file(file).read_all()
