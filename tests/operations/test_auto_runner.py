"""`runtime.runner: auto`: which runner it takes and why, and that a child process is alike."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from bertbatch import Job, JobError, run
from bertbatch.output.folder import open_output
from bertbatch.runtime.executors import choice
from bertbatch.runtime.executors.choice import RAY_SECONDS, ray_reason, scoring_seconds
from bertbatch.runtime.preflight import check_job
from tests.helpers.command_line import finish, start
from tests.helpers.jobs import make_job
from tests.helpers.outputs import answers, sound
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts

AUTO = ("--runner", "auto")
IN_CHILD = "runner: inline, in a child process, because scoring takes up to about 1 second"


def kinds(out: Path) -> list[str]:
    (record,) = open_output(str(out)).runs()
    return list(record["chosen"]["kinds"])


def small(folder: Path, rows: int, **keys) -> Job:
    """A job with the packaged model, and texts of some ten words."""
    pd.DataFrame({"text": ["a film that I would see again, and soon"] * rows}).to_csv(
        folder / f"{rows}.csv", index=False
    )
    return make_job("sentiment-mini", folder / f"{rows}.csv", folder / "out", "auto", **keys)


def test_a_small_input_is_scored_in_a_child_as_inline(corpus, tmp_path, tiny_model):
    """With the same bits, kind of worker and log; and again there is nothing to do."""
    out, inline = tmp_path / "out", tmp_path / "inline"
    options = ("--unit-rows", "70", "--runner")
    code, said = finish(start(tiny_model, corpus, out, *options, "auto"))
    assert code == 0, said
    assert IN_CHILD in said
    assert "model ready: torch float32 on cpu, 512 tokens per batch; 1 worker" in said
    code, there = finish(start(tiny_model, corpus, inline, *options, "inline"))
    assert code == 0, there
    assert kinds(out) == kinds(inline)
    pd.testing.assert_frame_equal(answers(out), answers(inline))
    sound(out, rows_scored=600)
    code, said = finish(start(tiny_model, corpus, out, *options, "auto"))
    assert (code, "planned units done before (600 rows)" in said) == (0, True), said


def test_what_libraries_print_in_the_child_is_no_result(corpus, tmp_path, tiny_model):
    process = start(tiny_model, corpus, tmp_path / "out", *AUTO, FAULT_PRINT="by a library")
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    assert "by a library" in stderr
    assert "by a library" not in stdout


def test_what_takes_longer_than_ray_to_start_is_not_small(tmp_path):
    """By the input's size, what is left of it, and the last run's rate."""
    assert 0 < scoring_seconds(check_job(small(tmp_path, 100))) < RAY_SECONDS / 4
    large = small(tmp_path, 100_000)
    seconds = scoring_seconds(check_job(large))
    assert seconds > RAY_SECONDS
    limited = large.model_copy(update={"input": large.input.model_copy(update={"limit": 9})})
    assert scoring_seconds(check_job(limited)) < RAY_SECONDS
    watched = Job.build({**large.model_dump(), "attention": {}})
    assert scoring_seconds(check_job(watched)) == 2 * seconds


def test_a_file_that_is_surely_large_needs_no_estimate(tmp_path, monkeypatch):
    """No child is begun for it."""
    monkeypatch.setattr(sys, "modules", {k: v for k, v in sys.modules.items() if k != "ray"})
    job = small(tmp_path, 10)
    assert ray_reason(job) is None
    monkeypatch.setattr(choice, "LARGE", 100)
    assert ray_reason(job) == "the input is large"
    assert ray_reason(small(tmp_path, 10, **{"input.limit": 5})) is None


def test_the_last_run_tells_how_fast_it_is_here(score, corpus, tmp_path, tiny_model):
    out = tmp_path / "out"
    result = score(corpus, out)
    write_parquet(corpus / "more.parquet", make_texts(3000))
    job = make_job(tiny_model, corpus, out, "auto")
    (path,) = (out / "_bertbatch" / "runs").iterdir()
    record = json.loads(path.read_text())
    found = {}
    for seconds, kind in [(4.0, 0), (8.0, 0), (8.0, 1), (0.5, 0)]:
        changed = {**record, "scoring_seconds": seconds}
        if kind:
            (choice,) = record["chosen"]["kinds"].values()
            changed["chosen"] = {**record["chosen"], "kinds": {"another, 2 threads": choice}}
        path.write_text(json.dumps(changed))
        found[seconds, kind] = scoring_seconds(check_job(job))
    assert result.exit_code == 0
    assert found[8.0, 0] == pytest.approx(2 * found[4.0, 0])
    assert found[8.0, 1] == found[0.5, 0] != found[8.0, 0]


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("RAY_ADDRESS", "10.0.0.1:6379", "RAY_ADDRESS is set"),
        ("RAY_ADDRESS", "local", "RAY_ADDRESS is set"),
        ("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}", "the job was submitted to Ray"),
    ],
)
def test_on_a_cluster_it_is_always_ray(variable, value, says, tmp_path, monkeypatch):
    job = small(tmp_path, 1)
    monkeypatch.setattr(sys, "modules", {k: v for k, v in sys.modules.items() if k != "ray"})
    assert ray_reason(job) is None
    assert ray_reason(small(tmp_path, 1, **{"runtime.workers": 2})) == "runtime.workers is 2"
    monkeypatch.setenv(variable, value)
    assert ray_reason(job) == says


def test_an_address_where_no_ray_answers_is_an_error_as_ever(corpus, tmp_path, tiny_model):
    there = {"RAY_ADDRESS": "127.0.0.1:1"}
    code, said = finish(start(tiny_model, corpus, tmp_path / "out", *AUTO, **there))
    assert code == 2, said
    assert "runner: Ray, because RAY_ADDRESS is set" in said
    assert "no Ray answers there" in said


def test_where_ray_runs_already_it_is_used(corpus, tmp_path, tiny_model, ray_here, caplog):
    caplog.set_level("INFO", logger="bertbatch")
    result = run(make_job(tiny_model, corpus, tmp_path / "out", "auto"))
    assert result.exit_code == 0
    assert "runner: Ray, because Ray is running in this process" in caplog.text


def test_what_exists_in_this_process_only_is_scored_in_it(tmp_path, tiny_model, caplog):
    caplog.set_level("INFO", logger="bertbatch")
    write_parquet(tmp_path / "in.parquet", make_texts(20))
    job = make_job(tiny_model, tmp_path / "in.parquet", f"memory://{tmp_path.name}/out", "auto")
    assert run(job).totals["rows_scored"] == 20
    assert "runner: inline, in this process, because memory://" in caplog.text


def test_errors_are_those_of_the_inline_runner(corpus, tmp_path, tiny_model):
    """Of the job, found here, and of the model, found in the child; nothing is written."""
    broken = tmp_path / "model"
    broken.mkdir()
    for path in Path(tiny_model).iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    del tensors["bert.pooler.dense.bias"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    for model, column in ((tiny_model, "no"), (str(broken), "text")):
        with pytest.raises(JobError) as error:
            run(make_job(model, corpus, tmp_path / "out", **{"input.text": column}))
        code, said = finish(start(model, corpus, tmp_path / "out", "--text", column, *AUTO))
        assert code == 2, said
        assert f"error: {error.value}" in said
        assert "Traceback" not in said
        assert not (tmp_path / "out").exists()
