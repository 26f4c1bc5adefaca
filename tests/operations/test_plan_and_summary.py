"""What a person is told: by `plan` before a run, by the summary after it, by `peek`."""

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from bertbatch import Job, JobError, load_attention, run
from bertbatch.display.summary import show_summary
from tests.helpers.command_line import invoke
from tests.helpers.jobs import make_job
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_model, make_texts


def planned(job: Job, folder) -> tuple[int, str]:
    """What `plan` says of a job, and `run` then does: the same refusal, if it is one."""
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    said = invoke("plan", str(path))
    done = invoke("run", str(path), "--log", "plain")
    assert said[0] == done[0]
    if said[0]:
        assert said[1] in done[1]
    return said


def test_plan_refuses_what_run_refuses(tiny_model, corpus, tmp_path):
    keys = {"input.carry": ["id"]}
    job = make_job(tiny_model, corpus, tmp_path / "out", **keys)
    assert planned(job, tmp_path)[0] == 0
    other = make_job(tiny_model, corpus, tmp_path / "out", **{"input.carry": ["id:other"]})
    assert "belongs to another job" in planned(other, tmp_path)[1]
    gone = make_job(
        tiny_model, corpus, tmp_path / "out", **keys, **{"input.on_removed_source": "fail"}
    )
    (corpus / "part-1.parquet").rename(tmp_path / "kept")
    assert "no longer has" in planned(gone, tmp_path)[1]
    (tmp_path / "kept").rename(corpus / "part-1.parquet")
    write_parquet(corpus / "part-0.parquet", make_texts(7))
    assert "changed after being planned" in planned(job, tmp_path)[1]


def test_status_tells_what_failed(tiny_model, corpus, tmp_path):
    (corpus / "broken.parquet").write_bytes(b"PAR1 and no more")
    try:
        run(make_job(tiny_model, corpus, tmp_path / "out"))
    finally:
        (corpus / "broken.parquet").unlink()
    code, said = invoke("status", str(tmp_path / "out"))
    assert code == 0
    assert "broken.parquet: " in said
    assert "state   failed" in said


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"model.engine": "openvino", "runtime.device": "cuda"}, "openvino runs on CPUs"),
        ({"model.engine": "openvino", "model.dtype": "int8"}, "openvino has no dtype int8"),
        ({"model.engine": "openvino", "model.dtype": "float16"}, "openvino has no dtype float16"),
        ({"model.dtype": "int8", "runtime.device": "cuda"}, "int8 is for CPUs"),
        ({"model.dtype": "float16", "runtime.device": "cpu"}, "many times slower"),
        ({"alarms.against": "nonsense://x"}, "nonsense"),
        ({"output.path": "/proc/none"}, "cannot be written"),
    ],
)
def test_plan_refuses_what_cannot_run(keys, says, tiny_model, corpus, tmp_path):
    if keys.get("output.path") and not sys.platform.startswith("linux"):
        pytest.skip("no /proc")
    job = make_job(tiny_model, corpus, keys.pop("output.path", tmp_path / "out"), **keys)
    if says == "cannot be written":  # the system has nothing against root: only trying tells
        with pytest.raises(JobError, match=says):
            run(job)
        return
    code, said = planned(job, tmp_path)
    assert (code, says in said) == (2, True), said


def test_an_empty_input_is_an_alarm_to_plan_too(tiny_model, tmp_path):
    (tmp_path / "in").mkdir()
    keys = {"alarms.empty_input": True}
    assert (
        planned(make_job(tiny_model, tmp_path / "in", tmp_path / "out", **keys), tmp_path)[0] == 4
    )


def test_shares_of_a_model_with_several_labels_are_of_rows(corpus, tmp_path, capsys):
    model = make_model(
        tmp_path / "model", num_labels=3, problem_type="multi_label_classification",
        id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2},
    )  # fmt: skip
    result = run(make_job(model, corpus, tmp_path / "out", **{"model.threshold": 0.01}))
    assert sum(result.run.labels.values()) > 600  # several to a row
    show_summary(result)
    said = capsys.readouterr().out
    for label, count in result.run.labels.items():
        assert f"{label}  {count} ({100 * count / 600:.1f}%)" in " ".join(said.split()).replace(
            f"{label} {count}", f"{label}  {count}"
        )


def test_a_stopped_run_says_how_much_of_the_input_it_speaks_of(score, corpus, tmp_path, capsys):
    result = score(corpus, tmp_path / "out")
    show_summary(result)
    assert "600 rows in = 600 scored" in capsys.readouterr().out
    result.run.rows_planned = 60_000  # as if it had been stopped by then
    show_summary(result)
    assert "600 of 60,000 planned rows in = 600 scored" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "asked"),
    [
        (pa.array([1, 2] * 20, pa.int64()), 1),
        (pa.array([True, False] * 20), True),
        (pa.array(["1", "x"] * 20), 1),
        (pa.array([18000, 18001] * 20, pa.date32()), pa.scalar(18000, pa.date32()).as_py()),
    ],
)
def test_a_groups_value_may_be_what_it_is_in_the_column(values, asked, score, tmp_path):
    pq.write_table(pa.table({"text": make_texts(40), "kind": values}), tmp_path / "in.parquet")
    keys = {"input.carry": ["kind"], "attention.group_by": "kind"}
    score(tmp_path / "in.parquet", tmp_path / "out", **keys)
    out = str(tmp_path / "out")
    assert len(load_attention(out, "column", asked)) > 0
    for group, value in (("column", 99), ("column", object()), ("column", None), (1, "")):
        with pytest.raises(JobError, match=r"group|value"):
            load_attention(out, group, value)


def test_peek_warns_of_unknown_tokens_as_a_run_does(tiny_model):
    text = "日本語の文章です abc"
    code, said = invoke("peek", text, "--model", tiny_model)
    assert code == 0
    assert "tokens are unknown to" in said
    assert "use a model for their language" in " ".join(said.split())
    assert "unknown" not in invoke("peek", "abc def", "--model", tiny_model)[1]
    assert "not Unicode" in invoke("peek", "a\udcff", "--model", tiny_model)[1]


def test_no_warning_of_ours_under_W_error(tiny_model, corpus, tmp_path):
    """Each command, where every warning is an error; of other packages' some are let go."""
    code = (
        "import warnings, sys; from bertbatch.cli import app\n"
        "warnings.filterwarnings('error', module='bertbatch')\n"
        "warnings.filterwarnings('error', category=ResourceWarning)\n"
        "sys.unraisablehook = lambda u: (print('unraisable', u.exc_value), sys.exit(9))\n"
        "for words in {!r}:\n"
        "    try: app(words, standalone_mode=False)\n"
        "    except SystemExit as e: assert e.code == 0, (words, e.code)\n"
    )
    out = str(tmp_path / "out")
    job = make_job(tiny_model, corpus, out, **{"input.limit": 20, "attention.per_row": True})
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    commands = [
        *(["plan", str(path)], ["run", str(path)], ["status", out], ["verify", out]),
        ["attention", out, "--to", str(tmp_path / "t.parquet")],
        ["peek", "a b", "--model", tiny_model],
    ]
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error::SyntaxWarning", "-c", code.format(commands)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ResourceWarning" not in done.stderr
    assert "unraisable" not in done.stdout


def test_rows_in_quarantine_are_named(tmp_path, tiny_model, capsys):
    """The first three, with the command that lists all; never what a row says."""
    source, out = tmp_path / "in", tmp_path / "the out"
    texts = ["secret words", None, *["fine"] * 8, None]
    write_parquet(source / "a.parquet", texts)
    keys = {"limits.max_quarantined": 1, "input.carry": ["id"]}
    show_summary(run(make_job(tiny_model, source, out, **keys)))
    said = capsys.readouterr().out
    first = ["a.parquet, row 1: text is null", "a.parquet, row 10: text is null"]
    assert [line.strip() for line in said.splitlines() if ", row " in line] == first
    assert "--quarantined" not in said  # that is all
    write_parquet(source / "b.parquet", [None, None, "fine"], 11)
    show_summary(run(make_job(tiny_model, source, out, **keys)))
    said = capsys.readouterr().out
    assert [line.strip() for line in said.splitlines() if ", row " in line] == [
        "b.parquet, row 0: text is null",
        "b.parquet, row 1: text is null",
    ]
    shown = invoke("status", str(out))[1]
    assert "quarantined  a.parquet, row 1: text is null" in shown
    assert f"all rows in quarantine: bertbatch status '{out}' --quarantined" in shown
    assert shown.count(", row ") == 3
    listed = invoke("status", str(out), "--quarantined")[1]
    assert [line.split("\t") for line in listed.splitlines()] == [
        ["a.parquet", "1", "text is null"],
        ["a.parquet", "10", "text is null"],
        ["b.parquet", "0", "text is null"],
        ["b.parquet", "1", "text is null"],
    ]
    assert "secret" not in said + shown + listed
    # Scored again, they are in quarantine once.
    run(make_job(tiny_model, source, out, **keys, **{"runtime.retry_quarantined": True}))
    again = invoke("status", str(out), "--quarantined")[1]
    assert sorted(again.splitlines()) == sorted(listed.splitlines())


def test_rows_left_out_are_told(tiny_model, tmp_path):
    for name in "abc":
        write_parquet(tmp_path / "in" / f"{name}.parquet", make_texts(60, seed=ord(name)))
    out = tmp_path / "out"
    words = (str(tmp_path / "in"), str(out), "--model", tiny_model, "--runner", "inline")
    where = ("--where", "id < 20", "--set", "runtime.unit_rows=20")
    code, said = invoke("score", *words, *where, "--log", "plain")
    assert code == 0
    assert "60 rows scored, 0 quarantined, 120 left out, " in said
    assert "180/180 rows (100.0%), 0 quarantined, 120 left out\n" in invoke("status", str(out))[1]
    # Parts say it, too, where the last record does not.
    (record,) = (out / "_bertbatch" / "runs").iterdir()
    record.unlink()
    assert "0 quarantined, 120 left out\n" in invoke("status", str(out))[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bertbatch.checks.status.OPENED", 2)
        assert "those left out are counted when the run ends" in invoke("status", str(out))[1]
    other = tmp_path / "other"
    code, said = invoke("score", words[0], str(other), *words[2:], "--log", "plain")
    assert code == 0
    assert "left out" not in said + invoke("status", str(other))[1]
