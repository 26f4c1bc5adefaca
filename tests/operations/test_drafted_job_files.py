"""`bertbatch init` prints a job file that runs, whatever the data are; `schema` describes all."""

import json
import random
from pathlib import Path

import jsonschema
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import ValidationError

from bertbatch import Job, JobError, run
from bertbatch.checks.draft import draft
from recipes.docs import job_keys
from tests.helpers.command_line import invoke
from tests.helpers.paths import ROOT
from tests.helpers.tiny import make_texts

WRITERS = {
    "x.csv": lambda frame, path: frame.to_csv(path, index=False),
    "semicolon.csv": lambda frame, path: frame.to_csv(path, index=False, sep=";"),
    "bar.csv": lambda frame, path: frame.to_csv(path, index=False, sep="|"),
    "x.tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    "x.csv.gz": lambda frame, path: frame.to_csv(path, index=False),
    "x.jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "x.parquet": lambda frame, path: frame.to_parquet(path),
    "x.arrow": lambda frame, path: feather.write_feather(pa.table(frame), path),
    "x.txt": lambda frame, path: path.write_text("\n".join(frame.iloc[:, 1])),
}


def frame(text: str = "text") -> pd.DataFrame:
    texts = make_texts(60, seed=2)
    return pd.DataFrame({"id": range(60), text: texts, "label": ["a", "b"] * 30, "n": 1.5})


def drafted(path: Path, model: str, out: Path) -> Job:
    text = draft(str(path))
    (out.parent / "job.yaml").write_text(text)
    changes = [f"model.name={model}", f"output.path={out}", "runtime.runner=inline"]
    return Job.load(out.parent / "job.yaml", changes)


@pytest.mark.parametrize("column", ["text", "words"])
@pytest.mark.parametrize("name", WRITERS)
def test_the_file_runs(name, column, tiny_model, tmp_path):
    WRITERS[name](frame(column), tmp_path / name)
    job = drafted(tmp_path / name, tiny_model, tmp_path / "out")
    result = run(job)
    assert (result.exit_code, result.run.rows_scored) == (0, 60)
    if name != "x.txt":
        assert {"id", "gold"} <= {*result.to_pandas().columns}


def test_names_of_any_letters(tiny_model, tmp_path):
    draw = random.Random(3)
    letters = "abc:#{}[]'\"\\,&*?|-<>=!%@` \täあ\n0"
    for case in range(60):
        name = "".join(draw.choices(letters, k=draw.randrange(1, 9)))
        if name.strip() != name or not name:
            continue
        path = tmp_path / f"{case}.parquet"
        other = {f"{name}_id": range(60), "true": "x", "null": 1}
        pq.write_table(pa.table(pd.DataFrame({name: make_texts(60), **other})), path)
        job = yaml.safe_load(draft(str(path)))
        assert job["input"]["text"] == name
        assert job["input"]["carry"] == [f"{name}_id"]


def test_the_text_is_found_by_name_or_length(tmp_path):
    def text_of(**columns: list) -> str:
        pq.write_table(pa.table(columns), tmp_path / "x.parquet")
        return yaml.safe_load(draft(str(tmp_path / "x.parquet")))["input"]["text"]

    short, long = ["ab", "c"], ["much longer than the other", "and this one too"]
    assert text_of(a=short, b=long) == "b"
    assert text_of(a=long, body=short) == "body"
    assert text_of(premise=short, hypothesis=long) == "premise"
    assert "# text_pair: hypothesis" in draft(str(tmp_path / "x.parquet"))
    assert "Japanese" in _draft_of(["とても良い映画でした", "ひどい"], tmp_path)
    with pytest.raises(JobError, match=r"no column of text; it has: n \(int64\)"):
        text_of(n=[1, 2])


def _draft_of(texts: list[str], folder: Path) -> str:
    pq.write_table(pa.table({"text": texts}), folder / "x.parquet")
    return draft(str(folder / "x.parquet"))


def test_what_cannot_be_read_is_told(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    (tmp_path / "empty.csv").write_text("")
    for path, said in (
        (tmp_path / "none.csv", "none.csv"),
        (tmp_path / "bad.parquet", "nothing can be said of it"),
        (tmp_path / "empty.csv", "nothing can be said of it"),
    ):
        with pytest.raises(JobError, match=said):
            draft(str(path))


def test_no_file_is_written_over(tmp_path):
    frame().to_csv(tmp_path / "x.csv", index=False)
    target = tmp_path / "job.yaml"
    words = ("init", str(tmp_path / "x.csv"), "--to", str(target))
    assert invoke(*words)[0] == 0
    assert target.read_text() == draft(str(tmp_path / "x.csv"))
    target.write_text("mine")
    code, said = invoke(*words)
    assert (code, target.read_text()) == (2, "mine")
    assert "there is such a file" in said


def test_a_job_file_is_named_as_one(tmp_path):
    frame().to_csv(tmp_path / "x.csv", index=False)
    for name in ("job.json", "job"):
        code, said = invoke("init", str(tmp_path / "x.csv"), "--to", str(tmp_path / name))
        assert code == 2
        assert "a job file ends in .yaml or .yml" in said
        assert not (tmp_path / name).exists()


SCHEMA = Job.json_schema()


def test_the_schema_knows_every_job_file_and_key():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for path in ROOT.glob("jobs/*.yaml"):
        data = yaml.safe_load(path.read_text())
        jsonschema.validate(json.loads(json.dumps(data, default=str)), SCHEMA)
    assert json.loads(invoke("schema")[1]) == SCHEMA
    assert json.loads((ROOT / "jobs" / "job.schema.json").read_text()) == SCHEMA


@pytest.mark.parametrize("key", job_keys())
def test_the_schema_refuses_what_a_job_refuses(key):
    """Types and choices: a string that stands for a number is only taken by the job itself."""
    for value in (1, -1, 0.5, True, "x", "auto", ["x"], {"x": 1}, [], None, 10**30):
        data: dict = {"input": {"path": "a"}, "output": {"path": "b"}}
        *sections, name = key.split(".")
        inner = data
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
        data = json.loads(json.dumps(data))
        fits = jsonschema.Draft202012Validator(SCHEMA).is_valid(data)
        try:
            Job.model_validate(data)
            kinds = set()
        except ValidationError as error:
            kinds = {each["type"] for each in error.errors()} - {
                "value_error",
                "string_pattern_mismatch",
            }
        if fits:
            assert not kinds, (value, key)
        elif (
            not kinds and key != "date"
        ):  # pydantic reads numbers and flags that are written as strings, and such
            assert isinstance(value, (bool, str, int, float)), (value, key)


@pytest.mark.parametrize("path", sorted(ROOT.glob("jobs/*.yaml")), ids=lambda path: path.name)
def test_shipped_files_name_their_schema(path):
    assert "# yaml-language-server: $schema=job.schema.json" in path.read_text().splitlines()[:3]


def test_rows_that_cannot_be_read_are_told_of(tmp_path):
    rows = [b"1,caf\xe9", b"2,tea", b"3,na\xefve"]
    (tmp_path / "x.csv").write_bytes(b"id,body\n" + b"\n".join(rows) + b"\n")
    said = "of the first 3 rows cannot be read: column 'body' is not valid utf-8; is it in another"
    made = draft(str(tmp_path / "x.csv"))
    assert f"# 2 {said} encoding (input.csv.encoding)?\n" in made
    assert yaml.safe_load(made)["input"]["text"] == "body"
    (tmp_path / "x.csv").write_bytes(b"id,body\n" + b"\n".join([rows[0]] * 3) + b"\n")
    with pytest.raises(JobError, match=f"3 {said}"):
        draft(str(tmp_path / "x.csv"))


@pytest.mark.parametrize(
    ("first", "asks"),
    [("id,text", False), ("1,a great film", True), ("2.5,bad", True), ("id,review text", False)],
)
def test_a_first_line_that_may_be_a_row_is_asked_about(first, asks, tmp_path):
    (tmp_path / "x.csv").write_text(f"{first}\n1,it was all right\n2,not for me\n")
    made = draft(str(tmp_path / "x.csv"))
    assert ("Is the first line a row, not a header?" in made) == asks
    assert yaml.safe_load(made)["input"]["path"]
