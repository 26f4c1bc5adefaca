"""Messages of mistakes that are easily made name what is wrong, with what to do instead."""

import json

import pandas as pd
import pytest

from bertbatch import run
from bertbatch.checks.outlook import look_ahead
from bertbatch.runtime.run import preflight
from tests.helpers.command_line import invoke
from tests.helpers.jobs import make_job
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("plan", "{x}"), "name OUTPUT, too: plan INPUT OUTPUT"),
        (("run", "{x}"), "score data by: score INPUT OUTPUT"),
        (("score", "-", "{o}"), "standard input cannot be read again"),
        (("score", "http://127.0.0.1:9/x.csv", "{o}"), "cannot be reached: Cannot connect"),
        (("score", "{x}", "{x}"), "is a file"),
        (("status", "{x}"), "is a file, or below one; name a folder"),
        (("verify", "{x}"), "is a file, or below one; name a folder"),
        (("score", "{x}", "{o}", "--model", "sentiment-mni"), "(do you mean sentiment-mini?)"),
        (("score", "{x}", "{o}", "--model", ""), "model.name is empty"),
        (("score", "{bare}", "{o}"), "a row, not a header? Then --set input.csv.header=false"),
        (("score", "{mixed}", "{o}"), "holds csv files (a.csv) and jsonl files (b.jsonl)"),
        (("score", "{array}", "{o}"), "it is an array, which `jq -c '.[]'` writes as one object"),
    ],
)
def test_a_mistake_has_its_message(words, says, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "x.csv").write_text("text\nabc def\n")
    (tmp_path / "a.jsonl").write_text('[{"text": "abc"}]')
    (tmp_path / "bare.csv").write_text("1,it was as good as they say\n0,not at all\n")
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "a.csv").write_text("text\nabc\n")
    (tmp_path / "mixed" / "b.jsonl").write_text('{"text": "abc"}\n')
    places = {"x": tmp_path / "x.csv", "array": tmp_path / "a.jsonl", "o": tmp_path / "out"}
    places |= {"bare": tmp_path / "bare.csv", "mixed": tmp_path / "mixed"}
    code, said = invoke(*(word.format(**places) for word in words))
    assert code == 2
    assert says in said.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_an_export_into_a_file_of_another_kind_is_refused(tiny_model, corpus, tmp_path):
    run(make_job(tiny_model, corpus, tmp_path / "out"))
    (tmp_path / "c.bak").write_text("mine")
    code, said = invoke("export", str(tmp_path / "out"), str(tmp_path / "c.bak"))
    assert code == 2
    assert "is a file; name a folder" in said
    assert (tmp_path / "c.bak").read_text() == "mine"


def test_other_files_in_a_new_output_are_told_of(tiny_model, corpus, tmp_path, caplog):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").touch()
    job = make_job(tiny_model, corpus, tmp_path / "out")
    run(job)
    run(job)  # which does not say it again
    assert caplog.text.count("also holds thesis.docx") == 1


def test_one_reason_is_counted_once_wherever_it_applies(tiny_model, tmp_path):
    """The place in a field differs from row to row; the first rows are named in order."""
    texts = [text.encode() for text in make_texts(40)]
    spoiled = [
        text[: i % 5] + b"\xff" + text if i % 4 == 3 else text for i, text in enumerate(texts)
    ]
    (tmp_path / "x.csv").write_bytes(b"text\n" + b"\n".join(spoiled) + b"\n")
    keys = {"limits.max_quarantined": 1}
    result = run(make_job(tiny_model, tmp_path / "x.csv", tmp_path / "out", **keys))
    assert result.run.reasons == {"column 'text' is not valid utf-8": 10}
    assert [row for _, row, _ in result.run.quarantined] == [3, 7, 11]


@pytest.mark.parametrize("name", ["header.csv", "none.parquet", "broken.parquet", "lacking.csv"])
def test_without_rows_no_model_is_loaded(name, tiny_model, tmp_path, caplog):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    if name == "none.parquet":
        write_parquet(path, [])
    elif name == "broken.parquet":
        path.write_bytes(b"PAR1")
        write_parquet(tmp_path / "in" / "none.parquet", [])
    else:
        path.write_text("text\n" if name == "header.csv" else "body\nabc\n")
        if name == "lacking.csv":
            (tmp_path / "in" / "header.csv").write_text("text\n")
    caplog.set_level("INFO", "bertbatch")
    result = run(make_job(tiny_model, tmp_path / "in", tmp_path / "out"))
    fails = name in ("broken.parquet", "lacking.csv")
    assert result.exit_code == (3 if fails else 0)
    assert list(result.failed_sources) == ([name] if fails else [])
    assert (tmp_path / "out" / "_SUCCESS.json").exists() is not fails
    (record,) = (tmp_path / "out" / "_bertbatch" / "runs").iterdir()
    assert json.loads(record.read_text())["chosen"]["kinds"] == {}
    assert "loading the model" not in caplog.text


def test_status_says_that_nothing_is_planned(tiny_model, corpus, tmp_path):
    job = make_job(tiny_model, corpus, tmp_path / "none", **{"limits.max_hours": 1e-9})
    assert "raise it: " in run(job).advice
    said = invoke("status", str(tmp_path / "none"))[1]
    assert "nothing is planned yet" in said
    assert "100.0%" not in said


def test_a_removed_file_is_told_of(tiny_model, tmp_path, caplog):
    for name in "ab":
        write_parquet(tmp_path / "in" / f"{name}.parquet", make_texts(9, seed=ord(name)))
    run(make_job(tiny_model, tmp_path / "in", tmp_path / "out"))
    (tmp_path / "in" / "a.parquet").unlink()
    caplog.set_level("INFO", "bertbatch")
    run(make_job(tiny_model, tmp_path / "in", tmp_path / "out"))
    assert "no longer there; the answers are kept: a.parquet" in caplog.text
    found = preflight(make_job(tiny_model, tmp_path / "in", tmp_path / "out"))
    states = {id_: one.state for id_, one in look_ahead(found).estimate.sources.items()}
    assert states == {"a.parquet": "removed", "b.parquet": "done"}


def test_init_names_the_column_that_looks_like_the_text(tiny_model, tmp_path):
    frame = pd.DataFrame({"id": range(5), "body": make_texts(5), "stars": 3})
    frame.to_csv(tmp_path / "x.csv", index=False)
    code, said = invoke("init", str(tmp_path / "x.csv"))
    assert code == 0
    assert "text: body" in said
