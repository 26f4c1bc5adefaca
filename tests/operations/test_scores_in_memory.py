"""`bertbatch.score`: rows in memory have the answers of a job, one for each, without files."""

import gc
import json
import os
import re

import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

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
        (None, "data is NoneType"),
        ({"text": ["a"]}, "data is dict"),
        (pl.DataFrame({"text": ["a"]}).lazy(), "data is LazyFrame"),
        ([1, 2], "data: row 0 is int, not text"),
        (["a", ["b"]], "data: row 1 is list, not text"),
        (["a", None, "\ud800"], "data: row 2 has half a character"),
        (np.array([["a"]]), "data: row 0 is ndarray, not text"),
        (
            pd.DataFrame({"other": ["a"]}),
            "'text'; it has: other; name one of these as text$",
        ),
        (pd.DataFrame({"text": [1.5]}), "data: column 'text' is double, not text"),
        (
            pd.DataFrame({"n": [1, 2], "text": ["a", 3]}),
            "column 'text', row 1 is int, not",
        ),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "two columns named 'text'"),
        (pa.table([["a"], ["b"]], names=["text", "text"]), "2 columns named 'text'"),
    ],
)
def test_other_data_is_refused(data, said, tiny_model):
    with pytest.raises(JobError, match=said):
        score(data, tiny_model)


FOREIGN = re.compile(
    r"--\w|rows\.parquet|memory://|input\.text|model\.name|command line|Input should"
)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"text": "nope"}, "data: has no text column 'nope'; it has: text, n; name one of these"),
        ({"text": "n"}, "data: column 'n' is int64, not text"),
        ({"text": None}, "text must be text; found None"),
        ({"text": 3}, "text must be text; found 3"),
        ({"text_pair": "nope"}, "name one of these as text_pair"),
        ({"text_pair": 3}, "text_pair must be text; found 3"),
        ({"model": "/nope"}, "model /nope: no such folder"),
        ({"model": 3}, "model must be text; found 3"),
        ({"settings": ["x"]}, "settings is list: give a dict"),
        ({"settings": {3: 3}}, "settings: unknown key '3'"),
        ({"settings": {"model.max_lenght": 3}}, "settings: unknown key 'model.max_lenght'; did"),
        ({"settings": {"model": {"max_lenght": 3}}}, "settings: unknown key 'model.max_lenght'"),
        ({"settings": {"model.max_length": "x"}}, "settings: 'model.max_length' must be a whole"),
        ({"settings": {"model.max_length.x": 3}}, "settings: 'model.max_length' must be a whole"),
        ({"settings": {"model.top_k": 99}}, "model.top_k 99"),
        ({"settings": {"model.task": "zero_shot"}}, "name them in settings"),
        ({"settings": {"input.where": "nope > 3"}}, "data: has no column 'nope' for input.where"),
        ({"settings": {"input.where": "n >"}}, "settings: 'input.where': is not a condition"),
        ({"settings": {"input.carry": ["nope"]}}, "data: has no column 'nope' to carry"),
        ({"settings": {"input.path": "x"}}, "settings: 'input.path' cannot be set: what is"),
        ({"settings": {"input": {"path": "x"}}}, "settings: 'input.path' cannot be set"),
        ({"settings": {"output.path": "x"}}, "settings: 'output.path' cannot be set: no files"),
        ({"settings": {"input.text": "n"}}, "cannot be set: give it as `text`"),
        ({"settings": {"model": {"name": "x"}}}, "cannot be set: give one model as `model`"),
        ({"settings": {"runtime.runner": "ray"}}, "cannot be set: all is done in this process"),
        ({"settings": {"runtime.device": "cuda"}}, "torch sees no GPU"),
    ],
)  # fmt: skip
def test_errors_speak_of_the_parameters(parameters, said, tiny_model, tmp_path, monkeypatch):
    if "device" in str(parameters) and torch.cuda.is_available():
        pytest.skip("here is a GPU")
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"text": ["a", "b"], "n": [1, 2]})
    with pytest.raises(JobError) as caught:
        score(frame, **{"model": tiny_model, **parameters})
    assert said in str(caught.value)
    unset = re.sub(r"'(input\.text|model\.name)' cannot", "", str(caught.value))
    assert not FOREIGN.search(unset), unset
    assert os.listdir(tmp_path) == []


def test_a_section_of_settings_leaves_the_rest_of_it(tiny_model):
    found = score(["one two three"], tiny_model, settings={"model": {"max_length": 4}})
    assert found.table["truncated"].to_pylist() == [True]
    assert found.result.totals == score(
        ["one two three"], tiny_model, settings={"model.max_length": 4}
    ).result.totals | {
        key: found.result.totals[key]
        for key in ("seconds", "scoring_seconds", "rows_per_second", "run", "plan")
    }


def test_columns_without_any_text_are_columns_of_texts(tiny_model):
    for data in (
        pd.DataFrame({"text": []}),
        pd.DataFrame({"text": [None, float("nan")]}),
        pa.table({"text": pa.nulls(3)}),
        pl.DataFrame({"text": [None]}),
    ):
        found = score(data, tiny_model)
        assert found.table["reason"].to_pylist() == ["text is null"] * len(data)


def test_rows_that_are_left_out_say_so(tiny_model):
    frame = pd.DataFrame({"text": ["a", None, "b"], "n": [1, 2, 3]})
    found = score(frame, tiny_model, settings={"input.where": "n < 3"})
    assert found.table["reason"].to_pylist() == [
        None, "text is null", "left out by input.where or input.limit",
    ]  # fmt: skip
    assert "2 without an answer" in repr(found)


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
