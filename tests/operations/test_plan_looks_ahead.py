"""`bertbatch plan` says what a run will find: sources, lengths, time, what to think about."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from bertbatch import Job, run
from bertbatch.checks.forecast import Elsewhere
from bertbatch.checks.outlook import Outlook, look_ahead
from bertbatch.runtime.run import preflight
from tests.helpers.command_line import invoke
from tests.helpers.jobs import make_job
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_model, make_texts


def outlook(job: Job, *more) -> Outlook:
    return look_ahead(preflight(job), *more)


@pytest.fixture(scope="module")
def nli(tmp_path_factory) -> str:
    return make_model(tmp_path_factory.mktemp("m") / "nli", id2label={0: "no", 1: "entailment"})


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"model.max_length": 16},
        {"model.max_length": 16, "model.long_text": "windows"},
        {"model.max_length": 16, "model.long_text": "windows", "model.stride": 1},
        {"model.max_length": 16, "model.long_text": "head_tail"},
        {"model.max_length": 32, "input.text_pair": "second"},
        {"model.task": "zero_shot", "model.candidate_labels": "a b,c", "model.max_length": 24},
    ],
)
def test_a_sample_of_all_texts_has_the_tokens_of_the_run(keys, nli, tmp_path):
    texts = make_texts(200, seed=6)
    frame = pd.DataFrame({"text": texts, "second": texts[::-1]})
    frame.to_parquet(tmp_path / "x.parquet")
    job = make_job(nli, tmp_path / "x.parquet", tmp_path / "out", **keys)
    found = outlook(job, False, Elsewhere(2, 1000.0, 3.0))
    done = run(job)
    assert found.elsewhere.tokens == pytest.approx((done.run.tokens, done.run.tokens))
    assert found.elsewhere.seconds[0] == pytest.approx(done.run.tokens / 2000)
    assert found.elsewhere.cost[0] == pytest.approx(done.run.tokens / 2000 / 3600 * 6)
    lengths = found.lengths[""]
    truncated = done.run.truncated[""] / 200
    assert lengths.truncated == pytest.approx(truncated)
    # The same plan again knows the rate of this run, and that nothing is left.
    after = outlook(job)
    assert after.estimate.rows_pending == 0
    assert after.time is None or after.time.seconds == (0, 0)


def test_a_sample_is_the_same_each_time_and_near(tiny_model, tmp_path):
    for i in range(40):
        write_parquet(tmp_path / "in" / f"{i:02}.parquet", make_texts(300, seed=i))
    keys = {"runtime.unit_rows": 300}
    job = make_job(tiny_model, tmp_path / "in", tmp_path / "out", **keys)
    first = outlook(job, False, Elsewhere(1, 1.0))
    assert first.record == outlook(job, False, Elsewhere(1, 1.0)).record
    assert first.sampled == 16 * 250
    least, most = first.elsewhere.tokens
    tokens = run(job).run.tokens
    assert least < tokens < most
    assert most / least < 1.2
    record = outlook(job).record
    assert record["time"]["rate"] > 0
    assert record["time"]["basis"] == "the last run here that scored"
    for _ in range(4):  # nights without anything new, which say nothing of a rate
        assert run(job).exit_code == 0
    assert preflight(job).context().known  # what the first run measured
    write_parquet(tmp_path / "in" / "new.parquet", make_texts(100))
    assert outlook(job).record["time"]["rate"] == record["time"]["rate"]
    code, said = invoke("plan", str(tmp_path / "in"), str(tmp_path / "out"), "--model", tiny_model)
    assert code == 0
    assert "of scoring, without start-up" in said


@pytest.mark.parametrize("rows", [200, 30_000])
def test_rows_that_a_condition_leaves_out_are_no_work(rows, tiny_model, tmp_path):
    texts = make_texts(rows)
    frame = pd.DataFrame({"text": texts, "eighth": [i % 8 for i in range(rows)]})
    frame.to_parquet(tmp_path / "x.parquet", row_group_size=1000)
    keys = {"input.where": "eighth = 0", "runtime.unit_rows": 1000}
    job = make_job(tiny_model, tmp_path / "x.parquet", tmp_path / "out", **keys)
    found = outlook(job, False, Elsewhere(1, 1.0))
    assert found.selected == pytest.approx(1 / 8, abs=0.005)
    assert found.record["selected"] == found.selected
    tokens = run(job).run.tokens
    least, most = found.elsewhere.tokens
    assert least - 1 <= tokens <= most + 1
    assert most < tokens * 1.3
    words = ["plan", str(tmp_path / "x.parquet"), str(tmp_path / "o"), "--model", tiny_model]
    code, said = invoke(*words, "--where", "eighth = 0")
    assert code == 0
    assert f"{rows:,} pending); `where` selects 12." in said
    assert json.loads(invoke(*words, "--json")[1])["selected"] is None


def test_sources_have_their_states(tiny_model, tmp_path):
    for name in "abcd":
        write_parquet(tmp_path / "in" / f"{name}.parquet", make_texts(20, seed=ord(name)))
    keys = {"input.on_changed_source": "keep", "runtime.unit_mib": 0.001}
    job = make_job(tiny_model, tmp_path / "in", tmp_path / "out", **keys)
    assert outlook(job).estimate.count("new") == 4
    run(job)
    assert outlook(job).estimate.count("done") == 4
    for part in (tmp_path / "out").glob("part-b-*"):
        part.unlink()
    write_parquet(tmp_path / "in" / "c.parquet", make_texts(30))
    write_parquet(tmp_path / "in" / "e.parquet", make_texts(5))
    (tmp_path / "in" / "f.parquet").write_bytes(b"PAR1")
    states = {id_: source.state for id_, source in outlook(job).estimate.sources.items()}
    assert states == {
        "a.parquet": "done", "b.parquet": "pending", "c.parquet": "changed",
        "d.parquet": "done", "e.parquet": "new", "f.parquet": "refused",
    }  # fmt: skip


def test_advice(tiny_model, tmp_path):
    long = [" ".join("abcdefgh" * 12)] * 12
    frame = pd.DataFrame({"id": range(12), "text": long, "body": ["x" * 2000] * 12})
    (tmp_path / "in").mkdir()
    for i in range(12):
        frame[i : i + 1].to_parquet(tmp_path / "in" / f"{i}.parquet")
        (tmp_path / "in" / f"{i}.png").touch()
        (tmp_path / "in" / f"{i}.pdf").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").touch()
    keys = {"input.carry": ["body"], "runtime.unit_rows": 1}
    said = " ".join(outlook(make_job(tiny_model, tmp_path / "in", tmp_path / "out", **keys)).advice)
    for part in (
        *("100 % of the texts are longer than 64 tokens", "times as large as the texts"),
        *("12 rows will be in 12 files", "thesis.docx", "more files are left out"),
    ):
        assert part in said
    foreign = pd.DataFrame({"text": ["これは日本語の文です"] * 50})
    foreign.to_parquet(tmp_path / "x.parquet")
    (unknown,) = outlook(make_job(tiny_model, tmp_path / "x.parquet", tmp_path / "o")).advice
    assert "unknown" in unknown
    write_parquet(tmp_path / "y.parquet", ["abc def"] * 40)
    assert outlook(make_job(tiny_model, tmp_path / "y.parquet", tmp_path / "o")).advice == []


@pytest.mark.parametrize(
    ("name", "encoding", "hint"),
    [
        ("x.csv", "utf-8", "; is input.csv.encoding right?"),
        ("x.csv", "cp932", "; is input.csv.encoding right?"),
        ("x.txt", "utf-8", ""),  # which has no such key
    ],
)
def test_rows_that_cannot_be_read_are_told_of(name, encoding, hint, tiny_model, tmp_path):
    spoiled = b"\n".join(b"abc \x81\xff %d" % i if i % 3 else b"abc" for i in range(60))
    (tmp_path / name).write_bytes((b"text\n" if name == "x.csv" else b"") + spoiled)
    keys = {"input.csv": {"encoding": encoding}}
    (said,) = outlook(make_job(tiny_model, tmp_path / name, tmp_path / "o", **keys)).advice
    column = "column 'text'" if name == "x.csv" else "the text"
    assert said == (
        "40 of 60 sampled rows would go to quarantine, most of them since: "
        f"{column} is not valid {encoding}{hint}"
    )


def test_the_command(tiny_model, corpus, tmp_path):
    words = ("plan", str(corpus), str(tmp_path / "out"), "--model", tiny_model, "--carry", "id")
    code, said = invoke(*words)
    assert code == 0
    for part in ("600 (0 done, 600 pending)", "tokens", "truncated at 64", "part-0.parquet"):
        assert part in said
    assert "--measure loads the model" in said
    assert not (tmp_path / "out").exists()
    record = json.loads(invoke(*words, "--json")[1])
    assert record["estimate"]["rows_pending"] == 600
    code, said = invoke(*words, "--measure", "--set", "runtime.device=cpu")
    assert code == 0
    assert "measured now" in said
    code, said = invoke("plan", "job.yaml", "--text", "body")
    assert code == 2
    assert "--text goes with INPUT and OUTPUT" in said
    assert invoke(*words, "--price-per-hour", "2")[0] == 2


def test_a_rate_is_measured_though_the_first_units_have_no_rows(tiny_model, corpus, tmp_path):
    keys = {"input.where": "id >= 150", "runtime.unit_rows": 25, "runtime.device": "cpu"}
    found = outlook(make_job(tiny_model, corpus, tmp_path / "out", **keys), True)
    assert found.time is not None
    assert found.time.rate > 0


def test_plain_plan_loads_no_engine(tiny_model, corpus, tmp_path):
    words = ["plan", str(corpus), str(tmp_path / "out"), "--model", tiny_model]
    code = (
        "import sys; from bertbatch.cli import app\n"
        f"try: app({words!r})\nexcept SystemExit as e: assert not e.code\n"
        "assert not {'torch', 'transformers', 'ray'} & {*sys.modules}, 'heavy'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
