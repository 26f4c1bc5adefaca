"""What is wrong with the input costs only itself, and is said before or after the work."""

import gzip
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from bertbatch import Job, JobError, run
from bertbatch.cli import app
from tests.helpers.jobs import make_job
from tests.helpers.sources import spoil_a_page, write_parquet
from tests.helpers.tiny import make_texts


def refused(tmp_path: Path, model: str, input: object, **keys: object) -> str:
    """The message of a job that must not start; nothing may be written then."""
    out = tmp_path / "refused"
    with pytest.raises(JobError) as caught:
        run(make_job(model, input, out, **keys))
    assert not out.exists()
    return str(caught.value)


def test_missing_input_is_refused(tmp_path, tiny_model):
    assert "no such file" in refused(tmp_path, tiny_model, tmp_path / "nowhere.parquet")
    message = refused(tmp_path, tiny_model, f"{tmp_path}/*.parquet")
    assert "*.parquet" in message
    (tmp_path / "empty").mkdir()
    assert "no parquet or csv" in refused(tmp_path, tiny_model, tmp_path / "empty")


def test_missing_column_names_those_that_exist(tmp_path, tiny_model, corpus):
    message = refused(tmp_path, tiny_model, corpus, **{"input.text": "body"})
    assert "'body'" in message
    assert "id, text" in message
    message = refused(tmp_path, tiny_model, corpus, **{"input.carry": ["ident"]})
    assert "'ident'" in message
    assert "id, text" in message


def test_a_text_column_of_numbers_is_refused(tmp_path, tiny_model, corpus):
    assert "int64" in refused(tmp_path, tiny_model, corpus, **{"input.text": "id"})


def test_unknown_and_mixed_formats_are_refused(tmp_path, tiny_model):
    (tmp_path / "in.xlsx").write_bytes(b"x")
    assert ".xlsx" in refused(tmp_path, tiny_model, tmp_path / "in.xlsx")
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "a.csv").write_text("text\nx\n")
    write_parquet(tmp_path / "mixed" / "b.parquet", ["x"])
    assert "csv files (a.csv) and parquet files (b.parquet)" in refused(
        tmp_path, tiny_model, tmp_path / "mixed"
    )


def test_an_output_inside_the_input_is_refused(corpus, tiny_model):
    for input in (corpus, f"{corpus}/**/*.parquet"):
        with pytest.raises(JobError, match="inside"):
            run(make_job(tiny_model, input, corpus / "out"))


def copy_model(tiny_model: str, folder: Path) -> Path:
    shutil.copytree(tiny_model, folder)
    return folder


def test_a_model_that_is_no_classifier_is_refused(tmp_path, tiny_model, corpus):
    model = copy_model(tiny_model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["architectures"] = ["BertForMaskedLM"]
    (model / "config.json").write_text(json.dumps(config))
    message = refused(tmp_path, str(model), corpus)
    assert "BertForMaskedLM" in message


def test_missing_head_names_the_tensors(tmp_path, tiny_model, corpus):
    model = copy_model(tiny_model, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    del tensors["classifier.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    assert "classifier.weight" in refused(tmp_path, str(model), corpus)


def test_missing_encoder_tensor_is_found_at_loading(tmp_path, tiny_model, corpus):
    model = copy_model(tiny_model, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    del tensors[name]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    assert name in refused(tmp_path, str(model), corpus)


def test_model_errors_pass_through_ray(tmp_path, tiny_model, corpus, ray_here):
    model = copy_model(tiny_model, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    del tensors["bert.pooler.dense.bias"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    message = refused(tmp_path, str(model), corpus, **{"runtime.runner": "ray"})
    assert "bert.pooler.dense.bias" in message


def test_pickled_and_cut_off_weights_are_refused(tmp_path, tiny_model, corpus):
    model = copy_model(tiny_model, tmp_path / "model")
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[:-100])
    assert "cut off" in refused(tmp_path, str(model), corpus)
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "pickle" in refused(tmp_path, str(model), corpus)


def test_unknown_models_are_refused(tmp_path, corpus):
    assert "no such folder" in refused(tmp_path, "./nowhere", corpus)
    assert "neither a packaged model" in refused(tmp_path, "somebody/something", corpus)


def test_wrong_labels_and_lengths_are_refused(tmp_path, tiny_model, corpus):
    assert "3 classes" in refused(tmp_path, tiny_model, corpus, **{"model.labels": list("abc")})
    assert "64 tokens" in refused(tmp_path, tiny_model, corpus, **{"model.max_length": 65})


def test_the_output_of_another_job_is_refused(score, corpus, tmp_path, tiny_model):
    score(corpus, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    with pytest.raises(JobError, match=r"max_length: 64 in the output, 32 in the job"):
        score(corpus, tmp_path / "out", **{"model.max_length": 32})
    with pytest.raises(JobError, match=r"carry.id"):
        score(corpus, tmp_path / "out", **{"input.carry": ["id"]})
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before


def test_changed_and_removed_sources_are_refused_or_kept(score, corpus, tmp_path):
    out = tmp_path / "out"
    score(corpus, out)
    write_parquet(corpus / "part-0.parquet", make_texts(10))
    with pytest.raises(JobError, match=r"part-0.parquet.* changed"):
        score(corpus, out)
    assert score(corpus, out, **{"input.on_changed_source": "keep"}).exit_code == 0
    (corpus / "part-0.parquet").unlink()
    assert score(corpus, out).exit_code == 0
    with pytest.raises(JobError, match="no longer has"):
        score(corpus, out, **{"input.on_removed_source": "fail"})


def test_a_truncated_shard_fails_alone_and_can_be_repaired(score, corpus, tmp_path, runner):
    out = tmp_path / "out"
    good = (corpus / "part-1.parquet").read_bytes()
    (corpus / "part-1.parquet").write_bytes(good[: len(good) // 2])
    result = score(corpus, out, runner, **{"input.carry": ["id"]})
    assert result.exit_code == 3
    assert list(result.failed_sources) == ["part-1.parquet"]
    assert not (out / "_SUCCESS.json").exists()
    assert result.totals["rows_in"] == 450
    (corpus / "part-1.parquet").write_bytes(good)
    result = score(corpus, out, runner, **{"input.carry": ["id"]})
    assert result.exit_code == 0
    assert result.to_pandas()["id"].tolist() == list(range(600))


def test_a_corrupt_page_in_one_of_many_units_can_be_repaired(score, corpus, tmp_path):
    out, keys = tmp_path / "out", {"input.carry": ["id"], "runtime.unit_rows": 20}
    path = corpus / "part-2.parquet"
    good = spoil_a_page(path, row_group=3)
    result = score(corpus, out, **keys)
    assert result.exit_code == 3
    assert list(result.failed_sources) == ["part-2.parquet"]
    ids = set(result.to_pandas()["id"])
    assert set(range(250)) <= ids
    assert 599 not in ids
    assert score(corpus, out, **keys).exit_code == 3  # still broken
    path.write_bytes(good)
    result = score(corpus, out, **keys)
    assert result.exit_code == 0
    assert result.to_pandas()["id"].tolist() == list(range(600))
    assert score(corpus, out, **keys).run.units == 0


def test_a_corrupt_page_among_small_files_costs_that_file_only(score, tmp_path):
    for i in range(8):
        write_parquet(tmp_path / "in" / f"f{i}.parquet", make_texts(3, seed=i), first=3 * i)
    good = spoil_a_page(tmp_path / "in" / "f4.parquet", 0)
    keys = {"input.carry": ["id"]}
    result = score(tmp_path / "in", tmp_path / "out", **keys)
    assert result.exit_code == 3
    assert list(result.failed_sources) == ["f4.parquet"]
    assert sorted(result.to_pandas()["id"]) == [i for i in range(24) if i // 3 != 4]
    (tmp_path / "in" / "f4.parquet").write_bytes(good)
    result = score(tmp_path / "in", tmp_path / "out", **keys)
    assert result.exit_code == 0
    assert sorted(result.to_pandas()["id"]) == list(range(24))


def test_rows_that_cannot_be_scored_are_quarantined(score, tmp_path, runner):
    texts = make_texts(200)
    texts[7] = None
    write_parquet(tmp_path / "in" / "a.parquet", texts)
    out = tmp_path / "out"
    result = score(tmp_path / "in", out, runner, **{"input.carry": ["id"]})
    assert result.exit_code == 0
    assert result.totals["rows_in"] == 200
    assert result.totals["rows_scored"] == 199
    (file,) = (out / "_bertbatch" / "quarantine").iterdir()
    rows = pa.ipc.open_file(file).read_all().to_pylist()
    assert rows == [{"source": "a.parquet", "row": 7, "reason": "text is null", "id": 7}]


def test_numbers_for_text_in_one_shard_are_quarantined(score, tmp_path):
    write_parquet(tmp_path / "in" / "a.parquet", make_texts(200))
    pq.write_table(pa.table({"id": [1, 2], "text": [3, 4]}), tmp_path / "in" / "b.parquet")
    result = score(tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 0
    assert result.run.reasons == {"text is int64, not a string": 2}


def test_invalid_utf8_in_parquet_is_quarantined(score, tmp_path):
    raw = pa.array([t.encode() for t in make_texts(150)] + [b"caf\xe9", b"fine"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    pq.write_table(pa.table({"text": text}), tmp_path / "in.parquet")
    result = score(tmp_path / "in.parquet", tmp_path / "out")
    assert result.run.reasons == {"text is not valid UTF-8": 1}
    assert result.totals["rows_scored"] == 151


def test_wrong_csv_rows_are_quarantined(score, tmp_path, runner):
    lines = [f"{i},{text}".encode() for i, text in enumerate(make_texts(200))]
    lines[5] = b"5,one,two"
    lines[6] = b"6,caf\xe9"
    lines[9] = b"9,"
    lines[10] = b'10,""'
    (tmp_path / "in.csv").write_bytes(b"id,text\n" + b"\n".join(lines))
    out = tmp_path / "out"
    result = score(tmp_path / "in.csv", out, runner, **{"input.carry": ["id"]})
    assert result.exit_code == 0
    table = result.to_pandas()
    assert [int(i) for i in table["id"]] == [i for i in range(200) if i not in (5, 6, 9)]
    assert table["row"].tolist() == [int(i) for i in table["id"]]
    (file,) = (out / "_bertbatch" / "quarantine").iterdir()
    bad = {r["row"]: r["reason"] for r in pa.ipc.open_file(file).read_all().to_pylist()}
    assert sorted(bad) == [5, 6, 9]
    assert "3 fields" in bad[5]
    assert "utf-8" in bad[6].lower()
    assert bad[9] == "text is null"


def test_too_much_quarantine_stops_with_3_and_resumes_when_allowed(score, tmp_path):
    texts = make_texts(4000)
    texts[:100] = [None] * 100
    write_parquet(tmp_path / "in.parquet", texts)
    keys = {"runtime.unit_rows": 100, "limits.max_quarantined": 0.01}
    result = score(tmp_path / "in.parquet", tmp_path / "out", **keys)
    assert result.exit_code == 3
    assert result.totals["units"] < 40
    assert not (tmp_path / "out" / "_SUCCESS.json").exists()
    result = score(
        tmp_path / "in.parquet", tmp_path / "out", **{**keys, "limits.max_quarantined": 0.5}
    )
    assert result.exit_code == 0
    assert result.totals["rows_scored"] == 3900
    assert result.totals["rows_quarantined"] == 100


def test_files_without_rows_are_complete(score, tmp_path):
    write_parquet(tmp_path / "in" / "a.parquet", [])
    result = score(tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 0
    assert result.totals["rows_in"] == 0
    (tmp_path / "empty.csv").write_bytes(b"")
    assert score(tmp_path / "empty.csv", tmp_path / "out2").exit_code == 0


def test_truncated_gzip_fails_alone(score, tmp_path):
    (tmp_path / "in").mkdir()
    data = ("text\n" + "\n".join(make_texts(300))).encode()
    (tmp_path / "in" / "a.csv.gz").write_bytes(gzip.compress(data))
    (tmp_path / "in" / "b.csv.gz").write_bytes(gzip.compress(data)[:-400])
    result = score(tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 3
    assert list(result.failed_sources) == ["b.csv.gz"]
    assert result.totals["rows_scored"] == 300


def test_nan_logits_are_quarantined(tmp_path, tiny_model):
    model = copy_model(tiny_model, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["bert.embeddings.word_embeddings.weight"][-1] = float("nan")  # the token "##9"
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    texts = [*make_texts(150), "x9"]
    write_parquet(tmp_path / "in.parquet", texts)
    job = make_job(str(model), tmp_path / "in.parquet", tmp_path / "out")
    result = run(Job.build({**job.model_dump(), "limits": {"max_quarantined": 1}}))
    assert set(result.run.reasons) == {"the model's output is not a finite number"}
    rows = {r for r, text in enumerate(texts) if any("9" in w[1:] for w in text.split())}
    assert set(result.to_pandas()["row"]).isdisjoint({150})
    assert result.totals["rows_quarantined"] <= len(rows)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input": {"pth": "x"}}, ["unknown key 'input.pth'", "input.path"]),
        ({"model": {"max_lenght": 9}}, ["unknown key 'model.max_lenght'", "model.max_length"]),
        (
            {"limits": {"max_quarantined": 2}},
            ["'limits.max_quarantined'", "must be at most 1; found 2"],
        ),
        ({"runtime": {"runner": "spark"}}, ["'runtime.runner'", "'auto', 'ray' or 'inline'"]),
        ({"input": {"path": "x", "carry": ["label"]}}, ["label:label_in"]),
        ({"input": {"path": "x", "carry": ["a", "b:a"]}}, ["carried twice"]),
        ({"modle": {}}, ["unknown key 'modle'", "'model'"]),
    ],
)
def test_job_file_errors_name_the_key(change, words):
    with pytest.raises(JobError) as caught:
        Job.build({"input": {"path": "x"}, "output": {"path": "y"}, **change}, "job.yaml")
    for word in words:
        assert word in str(caught.value)


def test_the_command_line_has_its_exit_codes(tmp_path, tiny_model, corpus):
    cli = CliRunner()
    result = cli.invoke(app, ["score", str(tmp_path / "no.csv"), str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "no such file" in result.stderr
    assert "Traceback" not in result.stderr
    job = tmp_path / "job.yaml"
    data = {
        "input": {"path": str(corpus)}, "output": {"path": str(tmp_path / "out")},
        "model": {"name": tiny_model}, "runtime": {"runner": "inline"},
    }  # fmt: skip
    job.write_text(yaml.safe_dump(data))
    planned = cli.invoke(app, ["plan", str(job)])
    assert planned.exit_code == 0
    assert "600 (0 done, 600 pending)" in planned.stdout
    assert not (tmp_path / "out").exists()
    result = cli.invoke(app, ["run", str(job), "--set", "input.carry=[id]", "--log", "json"])
    assert result.exit_code == 0
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert lines[-1]["event"] == "finished"
    assert lines[-1]["rows_scored"] == 600
    planned = cli.invoke(app, ["plan", str(job), "--set", "input.carry=[id]"])
    assert "600 (600 done, 0 pending)" in planned.stdout
