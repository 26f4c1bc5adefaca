"""What makes a run that succeeded exit with 4."""

import subprocess
import sys
from datetime import timedelta

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from bertbatch import Job, JobError, run
from bertbatch.cli import app
from bertbatch.errors import Alarm
from bertbatch.inputs import rows
from bertbatch.output.folder import open_output
from tests.helpers.jobs import make_job
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts


def test_a_label_share_that_moves_is_an_alarm(tmp_path, tiny_model):
    folder, out = tmp_path / "in", tmp_path / "out"
    texts = sorted(set(make_texts(900)))
    write_parquet(folder / "day1.parquet", texts[:300])

    def night(day, limit):
        job = make_job(tiny_model, folder, out, **{"alarms.label_share": limit})
        return run(job.model_copy(update={"date": job.date + timedelta(days=day)}))

    first = night(1, 0.1)  # no run before: nothing to compare with
    assert (first.exit_code, list(first.alarms)) == (0, [])
    scored = run(make_job(tiny_model, folder, tmp_path / "all")).to_pandas()
    share = (scored["label"] == "positive").mean()
    assert 0.05 < share < 0.95
    write_parquet(tmp_path / "more" / "x.parquet", texts[300:])
    more = run(make_job(tiny_model, tmp_path / "more", tmp_path / "more-out")).to_pandas()
    frame = pd.read_parquet(tmp_path / "more" / "x.parquet")["text"]
    positive = list(frame[(more["label"] == "positive").to_numpy()])
    few = [t for t in positive for _ in range(3)][:150]
    write_parquet(folder / "day2.parquet", few)
    second = night(2, 0.02)
    assert second.exit_code == 4
    assert len(second.alarms) == 2
    first_date = open_output(str(out)).runs()[0]["date"]
    moved = f"positive moved from {share:.1%} of 300 rows on {first_date} to 100.0% of 150 rows"
    assert moved in second.alarms
    assert (out / "_SUCCESS.json").exists()
    assert open_output(str(out)).runs()[-1]["alarms"] == second.alarms
    again = night(2, 0.02)  # nothing new: the same night's alarms stand
    assert (again.exit_code, again.alarms) == (4, second.alarms)
    assert night(3, 0.02).exit_code == 0


def test_a_night_in_two_tries_is_judged_as_one(tmp_path, tiny_model):
    """The second try judges the whole night, and not beside the first."""
    folder, out = tmp_path / "in", tmp_path / "out"
    texts = make_texts(400)

    def night(day):
        job = make_job(tiny_model, folder, out, **{"alarms.label_share": 0.02})
        return run(job.model_copy(update={"date": job.date + timedelta(days=day)}))

    write_parquet(folder / "day0.parquet", texts[:200])
    assert night(0).exit_code == 0
    write_parquet(folder / "day1-a.parquet", [texts[3]] * 150)
    assert night(1).exit_code == 4
    write_parquet(folder / "day1-b.parquet", [texts[3]] * 150)
    again = night(1)  # beside itself nothing would have moved
    assert again.exit_code == 4
    assert any("from" in alarm and "100.0%" in alarm for alarm in again.alarms)


def test_an_output_to_compare_with_that_cannot_be_read_is_refused(tmp_path, tiny_model, corpus):
    keys = {"alarms.label_share": 0.1, "alarms.against": "nowhere://x"}
    with pytest.raises(JobError):
        run(make_job(tiny_model, corpus, tmp_path / "out", **keys))
    assert not (tmp_path / "out").exists()


def test_label_shares_are_compared_with_another_output(tmp_path, tiny_model):
    texts = make_texts(400)
    for i, day in enumerate(("2026-11-20", "2026-11-21")):
        rows = [texts[3]] * 150 if i else texts[:150]
        write_parquet(tmp_path / "in" / day / "x.parquet", rows)
    job = {
        "input": {"path": f"{tmp_path}/in/{{date}}"},
        "output": {"path": f"{tmp_path}/out/{{date}}"},
        "model": {"name": tiny_model},
        "alarms": {"label_share": 0.02, "against": f"{tmp_path}/out/{{date-1}}"},
        "runtime": {"runner": "inline"},
    }
    assert run(Job.build(job, changes=["date=2026-11-20"])).exit_code == 0
    assert run(Job.build(job, changes=["date=2026-11-21"])).exit_code == 4


def test_too_much_quarantine_is_an_alarm(tmp_path, tiny_model):
    path, out = tmp_path / "in.parquet", tmp_path / "out"
    write_parquet(path, [*make_texts(97), None, None, None])
    limits = {"limits.max_quarantined": 0.5}
    right = run(make_job(tiny_model, path, out, **limits, **{"alarms.quarantined": 0.03}))
    assert right.exit_code == 0
    wrong = run(
        make_job(tiny_model, path, tmp_path / "o2", **limits, **{"alarms.quarantined": 0.02})
    )
    assert wrong.exit_code == 4
    assert list(wrong.alarms) == ["3.0% of the rows went to quarantine, more than 0.02"]


def test_an_empty_input_is_an_alarm_if_asked(tmp_path, tiny_model, corpus):
    for path in (tmp_path / "nothing", f"{corpus}/*.csv"):
        with pytest.raises(Alarm):
            run(make_job(tiny_model, path, tmp_path / "o", **{"alarms.empty_input": True}))
        with pytest.raises(JobError):
            run(make_job(tiny_model, path, tmp_path / "o"))
    write_parquet(tmp_path / "empty.parquet", [])
    empty = tmp_path / "empty.parquet"
    assert run(make_job(tiny_model, empty, tmp_path / "o")).exit_code == 0
    job = make_job(tiny_model, empty, tmp_path / "o", **{"alarms.empty_input": True})
    assert run(job).exit_code == 4
    job_file = tmp_path / "job.yaml"
    data = {
        "input": {"path": f"{tmp_path}/in/{{date}}"},
        "output": {"path": str(tmp_path / "o2")},
        "model": {"name": tiny_model},
        "alarms": {"empty_input": True},
    }
    job_file.write_text(yaml.safe_dump(data))
    shown = CliRunner().invoke(app, ["run", str(job_file), "--date", "2026-11-24"])
    assert shown.exit_code == 4
    assert "alarm: input.path" in shown.stderr


@pytest.mark.parametrize("column", ["id < 0", "text = 'no such text'"])
def test_a_condition_that_leaves_out_every_row_is_an_alarm_if_asked(
    column, tmp_path, tiny_model, corpus
):
    keys = {"input.where": column, "alarms.empty_input": True}
    job = make_job(tiny_model, corpus, tmp_path / "o", **keys)
    for _ in range(2):  # again, when nothing is new
        found = run(job)
        assert (found.exit_code, found.alarms) == (
            4,
            ["input.where leaves out every row of the input"],
        )
    assert (
        run(make_job(tiny_model, corpus, tmp_path / "o", **{"input.where": column})).exit_code == 0
    )
    some = {"input.where": "id = 599", "alarms.empty_input": True}
    for _ in range(2):
        assert run(make_job(tiny_model, corpus, tmp_path / "o2", **some)).exit_code == 0


def nights(model, folder, out, **keys):
    """What runs the job as on a day, the first of which is 0."""

    def night(day):
        job = make_job(model, folder, out, **keys)
        return run(job.model_copy(update={"date": job.date + timedelta(days=day)}))

    return night


def test_nothing_new_is_an_alarm_if_asked(tmp_path, tiny_model, corpus):
    night = nights(tiny_model, corpus, tmp_path / "o", **{"alarms.nothing_new": True})
    assert night(0).exit_code == 0
    assert night(0).exit_code == 0  # the same night again: it had new rows
    for _ in range(2):
        assert night(1).alarms == ["nothing was new"]
    write_parquet(corpus / "late.parquet", make_texts(5))
    assert night(1).exit_code == 0
    assert night(1).exit_code == 0
    assert night(2).alarms == ["nothing was new"]


def killed(model, folder, out, options=()):
    """A run that commits all and is killed before it writes its record."""
    words = [*("score", str(folder), str(out), "--model", model, "--runner", "inline")]
    code = (
        "import os, sys; from bertbatch.cli import app; from bertbatch.runtime import run\n"
        "run._Run._finish = lambda *_: os._exit(9); app()"
    )
    fixed = ["--set", "model.dtype=float32", "--set", "model.tokens_per_batch=512", *options]
    done = subprocess.run([sys.executable, "-c", code, *words, *fixed], capture_output=True)
    assert done.returncode == 9, done.stderr.decode()


def test_rows_of_a_killed_run_are_new_to_its_night(tmp_path, tiny_model, corpus):
    out = tmp_path / "o"
    killed(tiny_model, corpus, out)
    assert list(out.glob("*.parquet"))
    night = nights(tiny_model, corpus, out, **{"alarms.nothing_new": True})
    assert night(0).exit_code == 0
    assert night(1).exit_code == 4


def test_shares_are_of_all_rows_of_a_night(tmp_path, tiny_model):
    """Whichever run scored them: one that was killed, one that finished, or the retry."""
    folder, out = tmp_path / "in", tmp_path / "out"
    texts = make_texts(400)
    keys = {"alarms.label_share": 0.1, "alarms.quarantined": 0.02, "limits.max_quarantined": 1}
    night = nights(tiny_model, folder, out, **keys)
    write_parquet(folder / "day0.parquet", texts[:200])
    assert night(0).exit_code == 0
    before = open_output(str(out)).runs()[-1]["night"]
    assert before["rows_scored"] == sum(before["labels"].values()) == 200
    # A first try that is killed has most of the rows, and all of the bad ones.
    write_parquet(folder / "day1-a.parquet", [*[texts[3]] * 190, *[None] * 10])
    killed(tiny_model, folder, out, ["--set", "limits.max_quarantined=1"])
    write_parquet(folder / "day1-b.parquet", texts[200:210])
    second = night(1)
    assert second.run.rows == 10
    assert "4.8% of the rows went to quarantine, more than 0.02" in second.alarms
    assert any("moved from" in alarm for alarm in second.alarms)
    record = open_output(str(out)).runs()[-1]["night"]
    assert (record["rows_scored"], record["rows_quarantined"]) == (200, 10)
    assert night(1).alarms == second.alarms
    # The next night is compared with all of this one, and judged without it.
    write_parquet(folder / "day2.parquet", [texts[3]] * 150)
    assert (night(2).exit_code, night(2).alarms) == (0, [])


def test_rows_that_are_scored_again_count_once(tmp_path, tiny_model):
    folder, out = tmp_path / "in", tmp_path / "out"
    write_parquet(folder / "a.parquet", [*make_texts(97), None, None, None])
    keys = {"alarms.quarantined": 0.04, "limits.max_quarantined": 1}
    assert run(make_job(tiny_model, folder, out, **keys)).exit_code == 0
    again = run(make_job(tiny_model, folder, out, **keys, **{"runtime.retry_quarantined": True}))
    assert (again.run.rows, again.exit_code) == (3, 0)
    assert open_output(str(out)).runs()[-1]["night"]["rows_quarantined"] == 3


def test_rows_that_are_scored_again_belong_to_the_night_they_came_from(tmp_path, tiny_model):
    """So two clean nights after it stay clean, and it counts no rows of the night before it."""
    folder, out = tmp_path / "in", tmp_path / "out"
    keys = {"alarms.quarantined": 0.2, "limits.max_quarantined": 0.5}
    again = {"runtime.retry_quarantined": True}
    texts = make_texts(350)
    write_parquet(folder / "day0.parquet", [*texts[:98], None, None])
    assert nights(tiny_model, folder, out, **keys)(0).exit_code == 0
    write_parquet(folder / "day1.parquet", [*texts[98:197], *[None] * 35])
    said = ["26.1% of the rows went to quarantine, more than 0.2"]
    assert nights(tiny_model, folder, out, **keys)(1).alarms == said
    assert nights(tiny_model, folder, out, **keys, **again)(1).alarms == said
    # A run of another date that is not judged, and then a clean one.
    write_parquet(folder / "day2.parquet", texts[200:210])
    strict = {**keys, "limits.max_quarantined": 0.01}
    assert nights(tiny_model, folder, out, **strict, **again)(2).exit_code == 3
    write_parquet(folder / "day3.parquet", texts[210:300])
    clean = nights(tiny_model, folder, out, **keys)(3)
    assert (clean.exit_code, clean.run.rows_quarantined) == (0, 0)
    record = open_output(str(out)).runs()[-1]["night"]
    assert record["rows_quarantined"] == 0
    assert record["rows_scored"] == 100  # with those of the run that was not judged
    # The night that they came from, when it is asked for again.
    assert nights(tiny_model, folder, out, **keys)(1).alarms == said
    write_parquet(folder / "day4.parquet", texts[300:310])
    assert nights(tiny_model, folder, out, **keys, **again)(4).exit_code == 0


def test_rows_that_a_retry_could_score_leave_quarantine(tmp_path, tiny_model, monkeypatch):
    """At whichever date they are scored again."""
    folder, out = tmp_path / "in", tmp_path / "out"
    keys = {"alarms.quarantined": 0.01, "limits.max_quarantined": 1}
    write_parquet(folder / "a.parquet", make_texts(100))

    def broken(table, key, options, prepared=rows._prepared):
        texts, reasons = prepared(table, key, options)
        return texts, reasons | dict.fromkeys(range(30), "the reader was broken")

    with monkeypatch.context() as patch:
        patch.setattr(rows, "_prepared", broken)
        first = nights(tiny_model, folder, out, **keys)(0)
    assert first.alarms == ["30.0% of the rows went to quarantine, more than 0.01"]
    again = nights(tiny_model, folder, out, **keys, **{"runtime.retry_quarantined": True})
    assert (again(1).exit_code, again(1).run.rows_scored) == (0, 0)
    records = open_output(str(out)).runs()
    assert records[1]["this_run"]["rows_scored"] == 30
    assert records[1]["night"]["rows_scored"] == 0
    assert nights(tiny_model, folder, out, **keys)(0).exit_code == 0
    record = open_output(str(out)).runs()[-1]["night"]
    assert (record["rows_scored"], record["rows_quarantined"]) == (100, 0)
    assert sum(record["labels"].values()) == 100


def test_a_retry_with_other_settings_is_judged_by_them(tmp_path, tiny_model):
    folder, out = tmp_path / "in", tmp_path / "out"
    texts = make_texts(200)
    keys = {"alarms.label_share": 0.02, "alarms.quarantined": 0.01, "limits.max_quarantined": 1}
    write_parquet(folder / "day0.parquet", texts)
    assert nights(tiny_model, folder, out, **keys)(0).exit_code == 0
    write_parquet(folder / "day1.parquet", [*[texts[3]] * 130, *[None] * 20])
    alarms = nights(tiny_model, folder, out, **keys)(1).alarms
    assert len(alarms) == 3
    assert nights(tiny_model, folder, out, **keys)(1).alarms == alarms
    for changed, left in (
        ({"alarms.label_share": 1}, ["quarantine"]),
        ({"alarms.quarantined": 0.5}, ["moved", "moved"]),
        ({"alarms.label_share": 1, "alarms.quarantined": 0.5}, []),
        ({}, ["quarantine", "moved", "moved"]),
    ):
        found = nights(tiny_model, folder, out, **(keys | changed))(1)
        assert len(found.alarms) == len(left)
        assert all(word in alarm for word, alarm in zip(left, found.alarms, strict=True))
        assert found.exit_code == (4 if left else 0)
    record = open_output(str(out)).runs()[-1]["night"]
    assert (record["rows_scored"], record["rows_quarantined"]) == (130, 20)


def test_new_rows_that_a_condition_leaves_out_are_not_new(tmp_path, tiny_model):
    folder = tmp_path / "in"
    keys = {"alarms.nothing_new": True, "input.where": "id < 50"}
    night = nights(tiny_model, folder, tmp_path / "out", **keys)
    write_parquet(folder / "a.parquet", make_texts(60))
    for _ in range(2):
        assert night(0).exit_code == 0
    write_parquet(folder / "b.parquet", make_texts(20), 60)
    for _ in range(2):
        assert night(1).alarms == ["input.where leaves out every new row"]
    assert night(2).alarms == ["nothing was new"]
    write_parquet(folder / "c.parquet", make_texts(20), 49)
    for _ in range(2):
        assert night(2).exit_code == 0


def test_a_folder_to_compare_with_that_has_no_output_is_told(tmp_path, tiny_model, corpus, caplog):
    other = tmp_path / "typo"
    keys = {"alarms.label_share": 0.1, "alarms.against": str(other)}
    assert run(make_job(tiny_model, corpus, tmp_path / "out", **keys)).exit_code == 0
    told = f"alarms.against {other}: there is no output there, so that there is nothing to compare"
    assert told in caplog.text
    assert "no earlier run" not in caplog.text
