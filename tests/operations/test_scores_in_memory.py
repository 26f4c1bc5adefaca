"""`bertbatch.score`: rows in memory have the answers of a job, one for each, without files."""

import gc
import json
import os

import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from bertbatch import JobError, run, score
from tests.helpers.jobs import make_job
from tests.helpers.paths import ROOT
from tests.helpers.tiny import make_texts

TEXTS = [*make_texts(60, seed=11), None, *make_texts(40, seed=12), "\ud800"[:0], "again"]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    second = TEXTS[::-1]
    return pd.DataFrame(
        {"id": range(len(TEXTS)), "body": TEXTS, "second": second},
        index=pd.Index([f"r{i}" for i in range(len(TEXTS))], name="key"),
    )


@pytest.fixture(scope="module")
def expected(frame, tiny_model, tmp_path_factory) -> pd.DataFrame:
    """A job's answers, in order; null where a row is in quarantine."""
    folder = tmp_path_factory.mktemp("job")
    frame.to_parquet(folder / "x.parquet", index=False)
    keys = {"input.text": "body", "input.carry": ["id"], "limits.max_quarantined": 1}
    keys["runtime.unit_rows"] = 13
    run(make_job(tiny_model, folder / "x.parquet", folder / "out", **keys))
    return pd.read_parquet(folder / "out").set_index("id").reindex(range(len(TEXTS)))


SETTINGS = {"model.dtype": "float32", "runtime.unit_rows": 9}


@pytest.mark.parametrize("kind", ["pandas", "series", "polars", "arrow", "list"])
def test_answers_are_those_of_a_job(kind, frame, expected, tiny_model):
    given = {
        "pandas": frame,
        "series": frame["body"],
        "polars": pl.from_pandas(frame),
        "arrow": pa.Table.from_pandas(frame, preserve_index=False),
        "list": TEXTS,
    }[kind]
    found = score(given, tiny_model, "body", settings=SETTINGS)
    assert len(found) == len(TEXTS)
    table = found.to_pandas()
    keyed = kind in ("pandas", "series")
    assert list(table.index) == (list(frame.index) if keyed else list(range(len(TEXTS))))
    assert table["label"].astype(object).where(table["label"].notna(), None).tolist() == (
        expected["label"].astype(object).where(expected["label"].notna(), None).tolist()
    )
    np.testing.assert_allclose(table["score"], expected["score"], atol=1e-5)
    why = table["reason"].dropna()
    assert len(why) == 1
    assert "null" in why.iloc[0]
    assert not {"source", "row"} & {*table.columns}
    assert found.to_polars().shape == table.shape
    assert repr(found) == f"<Scores of {len(TEXTS)} rows, 1 without an answer>"
    assert "<table" in found._repr_html_()


def test_pairs_tasks_and_statistics(frame, tiny_model):
    both = frame.dropna()
    pairs = score(both, tiny_model, "body", text_pair="second", attention=True)
    assert len(pairs) == len(both)
    assert {"entropy", "to_cls"} <= {*pairs.attention().index.get_level_values("statistic")}
    assert "attn_entropy" in pairs.table.column_names
    with pytest.raises(JobError, match="statistics"):
        score(TEXTS[:3], tiny_model).attention()
    vectors = score(TEXTS[:3], tiny_model, settings={"model.task": "embedding"})
    assert vectors.table["embedding"].type.list_size == 32


def test_nothing_is_written_or_kept(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {path for path in fsspec.filesystem("memory").find("/") if "bertbatch" in path}
    found = score(["one", "two"], tiny_model)
    with pytest.raises(JobError):
        score(["one"], tiny_model, settings={"model.max_length": -1})
    with pytest.raises(JobError):
        score(["one"], str(tmp_path / "no-model"))
    assert os.listdir(tmp_path) == []
    del found
    gc.collect()
    after = {path for path in fsspec.filesystem("memory").find("/") if "bertbatch" in path}
    assert after == before


def test_a_report_is_written_where_it_is_asked_for(tiny_model, tmp_path):
    score(["one", "two", None], tiny_model).report(tmp_path / "report.html")
    assert "2 rows scored" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("reviews.csv", "data is str"),
        (7, "data is int"),
        ([1, 2], "cannot be read as a table"),
        (pd.DataFrame({"other": ["a"]}), "no text column 'text'; it has: other"),
        (pd.DataFrame({"text": [1.5]}), "not text"),
    ],
)
def test_other_data_is_refused(data, said, tiny_model):
    with pytest.raises(JobError, match=said):
        score(data, tiny_model)


def test_no_rows_have_no_answers(tiny_model):
    assert len(score([], tiny_model)) == 0
    assert len(score([None], tiny_model)) == 1


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    names: dict = {}
    cells = json.loads((ROOT / "examples" / "notebook.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 4
    for cell in code:
        exec(compile(cell, "cell", "exec"), names)
    assert names["scores"].to_pandas()["label"].tolist() == ["positive", "negative"]
    assert all(cell.get("outputs", []) == [] for cell in cells)
