"""`carry: "*"` and `output.columns`: which columns an output has."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertbatch import JobError
from tests.helpers.jobs import make_job
from tests.helpers.outputs import predictions, run_and_rescore, sound
from tests.helpers.tiny import make_texts
from tests.helpers.writers import WRITERS

TEXTS = make_texts(20)
OWN = ["label", "score", "scores", "n_tokens", "truncated", "unk_share"]


def table() -> pa.Table:
    return pa.table(
        {
            "id": pa.array(range(20), pa.int64()),
            "text": TEXTS,
            "label": ["x"] * 20,
            "Row": range(20),
            "a:b": [1.5] * 20,
            "attn_x": [True] * 20,
            "label_in": [None, *range(19)],
            "when": [{"day": i} for i in range(20)],
        }
    )


def test_all_columns_are_carried(runner, tmp_path, tiny_model, score, caplog) -> None:
    caplog.set_level("INFO", "bertbatch")
    (tmp_path / "in" / "day=1").mkdir(parents=True)
    pq.write_table(table(), tmp_path / "in" / "day=1" / "1.parquet")
    keys = {"input.carry": ["*", "when.day:n"], "runtime.unit_rows": 7}
    score(tmp_path / "in", tmp_path / "out", runner, **keys)
    names = {"label": "label_in", "Row": "Row_in", "a:b": "a_b", "attn_x": "in_attn_x"}
    names["label_in"] = "label_in_in"
    for old, new in names.items():
        assert f"column '{old}' is carried as '{new}'" in caplog.text
    found = predictions(tmp_path / "out")
    wanted = [names.get(name, name) for name in table().column_names]
    assert found.column_names == ["source", "row", "n", *wanted, "day", *OWN]
    for old, values in table().to_pydict().items():
        assert found[names.get(old, old)].to_pylist() == values
    assert found["day"].to_pylist() == ["1"] * 20
    assert found["n"].to_pylist() == list(range(20))

    # A later file with more columns adds none; the output keeps its own.
    more = table().append_column("more", [range(20)])
    pq.write_table(more, tmp_path / "in" / "day=1" / "2.parquet")
    assert score(tmp_path / "in", tmp_path / "out", runner, **keys).exit_code == 0
    assert predictions(tmp_path / "out").column_names == found.column_names
    sound(tmp_path / "out", rows_scored=40)
    for carry in (["id"], ["*", "id:other"]):
        with pytest.raises(JobError, match="belongs to another job"):
            score(tmp_path / "in", tmp_path / "out", runner, **{"input.carry": carry})
    score(tmp_path / "in", tmp_path / "some", **{"input.carry": ["id"]})
    with pytest.raises(JobError, match="belongs to another job"):
        score(tmp_path / "in", tmp_path / "some", **{"input.carry": "*"})


def test_all_columns_of_lines_are_carried(tmp_path, score) -> None:
    path = WRITERS["jsonl by polars"](table().select(["id", "text", "label", "when"]), tmp_path)
    score(path, tmp_path / "out", **{"input.carry": "*"})
    found = predictions(tmp_path / "out")
    assert found["label_in"].to_pylist() == ["x"] * 20
    assert found["when"].to_pylist() == table()["when"].to_pylist()


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        (["label"], ["source", "row", "label"]),
        (["score", "id", "label"], ["source", "row", "id", "label", "score"]),
        (["n_tokens"], ["source", "row", "n_tokens"]),
        (["source"], ["source", "row"]),
    ],
)
def test_only_chosen_columns_are_written(columns, wanted, tmp_path, tiny_model) -> None:
    pq.write_table(table(), tmp_path / "x.parquet")
    keys = {"output.columns": columns, "input.carry": ["id"] if "id" in columns else []}
    job = make_job(tiny_model, tmp_path / "x.parquet", tmp_path / "out", **keys)
    run_and_rescore(job, 10)
    assert predictions(tmp_path / "out").column_names == wanted
    sound(tmp_path / "out", rows_scored=20)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"output.columns": ["labels"]}, "there is no column 'labels'; there are: source, row"),
        ({"output.columns": ["label"], "input.carry": ["id"]}, "leaves out 'id'"),
        ({"output.columns": ["attn_entropy"]}, "no column 'attn_entropy'"),
        ({"input.carry": ["*", "nothing"]}, "has no column 'nothing' to carry"),
    ],
)
def test_wrong_columns_are_told_before_work_starts(keys, said, tmp_path, score) -> None:
    pq.write_table(table(), tmp_path / "x.parquet")
    with pytest.raises(JobError, match=said):
        score(tmp_path / "x.parquet", tmp_path / "out", **keys)
    assert not (tmp_path / "out").exists()


def test_statistics_may_be_left_out_of_the_rows(tmp_path, score) -> None:
    pq.write_table(table(), tmp_path / "x.parquet")
    keys = {
        "output.columns": ["label", "attn_entropy", "id"],
        "input.carry": ["id"],
        "attention.statistics": ["entropy", "to_cls"],
        "attention.group_by": "id",
    }
    score(tmp_path / "x.parquet", tmp_path / "out", **keys)
    wanted = ["source", "row", "id", "label", "attn_entropy"]
    assert predictions(tmp_path / "out").column_names == wanted
    sound(tmp_path / "out", rows_scored=20)
