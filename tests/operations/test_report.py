"""A report shows what an output's files say, whatever state the output is in."""

import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertbatch import Job, JobError, load_attention, run
from bertbatch.output.folder import open_output
from bertbatch.report.material import gather
from bertbatch.report.page import write_report
from bertbatch.report.sections.heads import heads
from bertbatch.report.sections.quarantine import quarantine
from tests.helpers.command_line import invoke
from tests.helpers.jobs import make_job
from tests.helpers.paths import ROOT
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts
from tests.helpers.written_outputs import (
    label_sets,
    lengths,
    numbers,
    single_labels,
    write_output,
)

LABELS = ["bad", "so so", "good"]


def scores_of(rows, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(3), rows)


def page_of(out, to, **keys):
    write_report(open_output(str(out)), to, **keys)
    return to.read_text()


@pytest.fixture
def out(tmp_path):
    """400 rows in 8 units; four are in quarantine."""
    body = [f"private words {i}" for i in range(400)]
    gold = [LABELS[i % 3] for i in range(400)]
    topic = [None if i % 5 == 0 else "abc"[i % 3] for i in range(400)]
    day = [f"2026-11-{1 + i % 9:02d}" for i in range(400)]
    answers = single_labels(LABELS, scores_of(400), body=body, gold=gold, topic=topic, day=day)
    return write_output(
        tmp_path / "out", answers, LABELS, unit_rows=50,
        bad={3: "text is null", 4: "text is null", 90: "too <b>odd</b>", 399: "text is null"},
    )  # fmt: skip


def test_a_whole_output(out, tmp_path):
    page = page_of(out, tmp_path / "r.html", gold="gold")
    for said in (
        "complete: every planned unit is committed",
        "396 rows scored",
        "Confusion matrix",
        "Shares of labels by “topic”",
        "Labels by day in “day”",
        "too &lt;b&gt;odd&lt;/b&gt;",
        "Texts are shown if the text column is carried",
    ):
        assert said in page, said
    assert "private words" not in page
    assert "<b>odd" not in page


def test_whole_numbers_are_in_their_order(tmp_path):
    stars = [None if i % 7 == 0 else i % 12 - 1 for i in range(200)]
    out = write_output(
        tmp_path / "out", single_labels(LABELS, scores_of(200), stars=stars), LABELS, unit_rows=50
    )
    table = page_of(out, tmp_path / "r.html").partition("Shares of labels by “stars”")[2]
    shown = re.findall(r'<th scope="row"><bdi>([^<]*)<', table.partition("</table>")[0])
    assert shown == [*map(str, range(-1, 11)), "(none)"]


def test_texts_are_shown_only_if_they_are_carried_as_such(tmp_path):
    body = [f"private words {i}" for i in range(60)]
    note = [f"secret note {i}" for i in range(60)]
    answers = single_labels(LABELS, scores_of(60), note=note, body=body)
    given = {"text": "review", "carry": {"note": "note", "body": "review"}}
    write_output(tmp_path / "out", answers, LABELS, input=given)
    page = page_of(tmp_path / "out", tmp_path / "r.html")
    assert "private words" in page
    assert "secret note" not in page


def test_the_same_output_gives_the_same_bytes(out, tmp_path):
    first, second = (page_of(out, tmp_path / f"{i}.html", gold="gold") for i in range(2))
    assert first == second


def test_a_job_that_is_not_done(tmp_path):
    answers = single_labels(LABELS, scores_of(100), gold=["bad"] * 100)
    write_output(tmp_path / "out", answers, LABELS, unit_rows=10, skip=(2, 5))
    page = page_of(tmp_path / "out", tmp_path / "r.html", gold="gold")
    assert "stopped: 80.0% of the planned rows are committed" in page
    assert "80 rows scored" in page


def test_a_job_that_has_begun_and_committed_nothing(tmp_path):
    answers = single_labels(LABELS, scores_of(20), gold=["bad"] * 20)
    write_output(tmp_path / "out", answers, LABELS, unit_rows=10, skip=(0, 1))
    assert "0 rows scored" in page_of(tmp_path / "out", tmp_path / "r.html", gold="gold")


@pytest.mark.parametrize("damage", ["part", "missing", "quarantine", "plan", "success", "run"])
def test_damage_is_said_and_the_rest_is_shown(out, tmp_path, damage):
    parts = sorted(out.glob("*.parquet"))
    runs = out / "_bertbatch" / "runs"
    runs.mkdir()
    rows, broken = 396, True
    if damage == "part":
        parts[1].write_bytes(parts[1].read_bytes()[:300])
        rows -= 49
    if damage == "missing":
        parts[7].unlink()
        rows -= 49
    if damage == "quarantine":
        for file in (out / "_bertbatch" / "quarantine").iterdir():
            file.write_bytes(b"not Arrow")
        broken = False
    if damage == "plan":
        (out / "_bertbatch" / "plan" / "00000000.json.gz").write_bytes(b"no plan")
    if damage == "success":
        (out / "_SUCCESS.json").write_text("{")
        broken = False
    if damage == "run":
        (runs / "x.json").write_text("[]")
        broken = False
    page = page_of(out, tmp_path / "r.html", gold="gold")
    assert f"{rows:,} rows scored" in page
    assert ("broken: " in page) == broken
    assert ("cannot be read" in page) == (damage in ("part", "quarantine", "plan") or broken)


def test_rows_that_were_scored_later_are_not_in_quarantine(tmp_path, tiny_model, monkeypatch):
    write_parquet(tmp_path / "in.parquet", [None, *make_texts(30)], 0)
    assert run(make_job(tiny_model, tmp_path / "in.parquet", tmp_path / "out")).exit_code == 0
    for _ in range(2):  # it is null still: one row, however often it was tried
        again = {"runtime.retry_quarantined": True}
        run(make_job(tiny_model, tmp_path / "in.parquet", tmp_path / "out", **again))
        section = quarantine(gather(open_output(str(tmp_path / "out")), None, None, None))
        assert list(section.blocks[0].rows) == [("text is null", "1")]


@pytest.mark.parametrize("kind", ["sets", "numbers", "entities", "vectors", "odd scores"])
def test_every_task_has_a_page(tmp_path, kind):
    labels, problem = LABELS, "single_label_classification"
    scores = scores_of(50)
    if kind == "sets":
        answers = label_sets(LABELS, scores, gold=["bad"] * 50)
        problem = "multi_label_classification"
    elif kind == "numbers":
        answers, problem = numbers(scores[:, 0], gold=scores[:, 1]), "regression"
        labels = ["x"]
    elif kind == "entities":
        entity = {"label": "person", "start": 0, "end": 3, "text": "Ada", "score": 0.5}
        answers = pa.table({"entities": [[entity] * (i % 3) for i in range(50)], **lengths(50)})
        problem = "token_classification"
    elif kind == "vectors":
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), 3)
        answers, problem = pa.table({"embedding": vectors, **lengths(50)}), "embedding"
    else:
        answers = single_labels(LABELS, scores * 9, gold=["bad"] * 50)
    write_output(tmp_path / "out", answers, labels, problem)
    gold = "gold" if "gold" in answers.column_names else None
    page = page_of(tmp_path / "out", tmp_path / "r.html", gold=gold)
    said = {"sets": "all labels right", "numbers": "Quantiles of the values", "entities": "person",
            "vectors": "Tokens of a text", "odd scores": "not between 0 and 1"}  # fmt: skip
    assert said[kind] in page


def test_several_models_have_a_report_each(tmp_path, tiny_model):
    write_parquet(tmp_path / "in.parquet", make_texts(30), 0)
    models = [{"name": tiny_model, "as": name} for name in ("one", "two")]
    job = Job.build(
        {
            "input": {"path": str(tmp_path / "in.parquet")},
            "output": {"path": str(tmp_path / "out")},
            "models": models,
            "attention": {},
            "runtime": {"runner": "inline"},
        }
    )
    assert run(job).exit_code == 0
    code, said = invoke("report", str(tmp_path / "out"), "--to", str(tmp_path / "r.html"))
    assert code == 2
    assert "one, two" in said
    assert "Heads by entropy" in page_of(tmp_path / "out", tmp_path / "r.html", model="two")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Missing option '--to'"),
        (["--to", "{out}/report.html"], "lies inside"),
        (["--to", "{tmp}/none/report.html"], "cannot be written: No such file"),
        (["--to", "{tmp}/folder.html"], "cannot be written"),
        (["--to", "{tmp}/r.pdf"], "a report ends in .html or .htm"),
        (["--to", "{tmp}/r.html", "--gold", "nothing"], "no column 'nothing'"),
        (["--to", "{tmp}/r.html", "--gold", "topic"], "no label of the model"),
        (["--to", "{tmp}/r.html", "--against", "{tmp}/here"], "is not an output"),
    ],
)
def test_what_cannot_be_done_is_said(out, tmp_path, monkeypatch, words, said):
    for name in ("here", "folder.html"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    words = [word.format(out=out, tmp=tmp_path) for word in words]
    code, text = invoke("report", str(out), *words)
    assert code == 2
    assert said in text
    assert list((tmp_path / "here").iterdir()) == []
    assert not list(tmp_path.glob(".*"))


def test_without_matplotlib_it_says_what_to_install(out, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, text = invoke("report", str(out), "--to", str(tmp_path / "r.html"))
    assert code == 2
    assert "pip install 'bertbatch[report]'" in text


def test_outputs_of_other_rows_are_not_compared(out, tmp_path):
    answers = single_labels(LABELS, scores_of(5))
    write_output(tmp_path / "other", answers, LABELS, sources=(1,) * 5, skip=(0,), unit_rows=10)
    page = page_of(out, tmp_path / "r.html", other=open_output(str(tmp_path / "other")))
    assert "The answers are not compared" in page


@pytest.mark.parametrize("command", ["evaluate", "compare", "report"])
def test_judging_imports_no_model_code(out, tmp_path, command):
    words = {
        "evaluate": [str(out), "--gold", "gold"],
        "compare": [str(out), str(out)],
        "report": [str(out), "--to", str(tmp_path / "r.html")],
    }[command]
    code = (
        "import sys; from typer.testing import CliRunner; from bertbatch.cli import app\n"
        f"r = CliRunner().invoke(app, {[command, *words]!r}); assert r.exit_code == 0, r.output\n"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def attended(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("attended")
    write_parquet(folder / "in.parquet", make_texts(60), 0)
    keys = {"attention.statistics": ["entropy", "to_sep"]}
    job = make_job(tiny_model, folder / "in.parquet", folder / "out", **keys)
    assert run(job).exit_code == 0
    return folder / "out"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--plot", "entropy", "--to", "{to}.png"], 0, "written"),
        (
            ["--plot", "to_sep", "--to", "{to}.svg", "--group", "label", "--value", "negative"],
            0,
            "written",
        ),
        (["--plot", "entropy"], 2, "--to is missing"),
        (["--plot", "entropy", "--to", "{to}.gif"], 2, ".png or .svg"),
        (["--plot", "nothing", "--to", "{to}.png"], 2, "the output has entropy"),
        (["--plot", "entropy", "--to", "{to}.png", "--group", "x"], 2, "one of all, label"),
        (["--plot", "entropy", "--to", "{to}.png", "--group", "label"], 2, "'positive'"),
        (["--plot", "entropy", "--to", "{to}.png", "--value", "a"], 2, "give --group"),
        (["--plot", "entropy", "--to", "{to}.png", "--against", "x"], 2, "leave out --against"),
        (["--group", "label"], 2, "add --plot"),
        (["--across-models"], 2, "add --against"),
    ],
)
def test_pictures_of_statistics(attended, tmp_path, words, code, said):
    words = [word.format(to=tmp_path / "picture") for word in words]
    found, text = invoke("attention", str(attended), *words)
    assert found == code, text
    assert said in text
    made = list(tmp_path.iterdir())
    assert len(made) == (code == 0)
    for path in made:
        assert path.read_bytes()[:4] in (b"\x89PNG", b"<?xm")


def test_a_grouping_column_is_called_by_its_name(tmp_path, tiny_model):
    rows = pa.table({"text": make_texts(60), "gold": ["good", "bad"] * 30})
    pq.write_table(rows, tmp_path / "in.parquet")
    keys = {
        "input.carry": ["gold:side"],
        "attention.statistics": ["entropy"],
        "attention.group_by": "side",
    }
    out = str(tmp_path / "out")
    assert run(make_job(tiny_model, tmp_path / "in.parquet", out, **keys)).exit_code == 0
    code, said = invoke("attention", out)
    assert code == 0
    assert "also by side: bad, good" in said
    pictures = []
    for name in ("side", "column"):
        to = tmp_path / f"{name}.svg"
        plot = ("--plot", "entropy", "--to", str(to))
        code, said = invoke("attention", out, *plot, "--group", name, "--value", "good")
        assert code == 0, said
        pictures.append(to.read_text())
        code, said = invoke("attention", out, *plot, "--group", name)
        assert "the group side has the values 'bad', 'good'" in said
    assert pictures[0] == pictures[1]
    assert "entropy, side good" in pictures[0]
    assert "column (which is 'side')" in invoke("attention", out, *plot, "--group", "gold")[1]
    assert load_attention(out, "side", "bad").equals(load_attention(out, "column", "bad"))
    with pytest.raises(JobError, match="'column' is 'side'"):
        load_attention(out, "gold", "bad")
    assert ">side: good</option>" in page_of(out, tmp_path / "r.html")


def test_heads_are_alike_beyond_the_length_of_texts(tmp_path):
    """Three heads follow the length, and the first two of them also something else."""
    rng = np.random.default_rng(0)
    n = rng.integers(5, 500, 800)
    common = rng.normal(size=800)
    each = [np.log(n), np.log(n) - 0.05 * np.log(n) ** 2, -np.log(n), rng.normal(size=800)]
    values = np.stack(each, 1) + 0.02 * rng.normal(size=(800, 4))
    values[:, :2] += 0.05 * common[:, None]
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), pa.float32()), 4)
    answers = single_labels(LABELS, scores_of(800))
    tokens = pa.array(n, pa.int32())
    answers = answers.set_column(answers.column_names.index("n_tokens"), "n_tokens", tokens)
    field = pa.field("attn_entropy", lists.type, metadata={"layers": "2", "heads": "2"})
    out = write_output(tmp_path / "out", answers.append_column(field, lists), LABELS)
    section = heads(gather(open_output(str(out)), None, None, None))
    assert "without what text length explains" in section.blocks[0].text
    found = {row[:2]: float(row[2]) for row in section.blocks[1].table.rows}
    assert found.pop(("1.1", "1.2")) > 0.8
    assert all(abs(correlation) < 0.15 for correlation in found.values())
