"""`input.dedupe: corpus`: a text that several units have is scored once, every row is answered."""

import random
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertbatch import Job, JobError, run
from bertbatch.repeats.search import Search
from bertbatch.repeats.stored import FOLDER
from tests.helpers.jobs import make_job
from tests.helpers.outputs import answers, quarantine, same_answers, sound
from tests.helpers.tiny import make_texts

KEYS = {"input.carry": ["id"], "runtime.unit_rows": 25}
ONCE = {**KEYS, "input.dedupe": "corpus"}


def write(folder: Path, files: list[list[str | None]], first: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    count = first
    for i, texts in enumerate(files):
        ids = range(count, count + len(texts))
        table = pa.table({"id": pa.array(ids, pa.int64()), "text": pa.array(texts, pa.string())})
        pq.write_table(table, folder / f"{first:05}-{i}.parquet")
        count += len(texts)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """300 rows in three files, of which most have one of 40 texts."""
    draw = random.Random(5)
    texts: list[str | None] = [*make_texts(40, seed=3)]
    rows = [draw.choice(texts) if draw.random() < 0.8 else f"only {i}" for i in range(300)]
    rows[7] = rows[130] = None
    return write(tmp_path_factory.mktemp("in"), [rows[:120], rows[120:130], rows[130:]])


def stored(out: Path) -> pd.DataFrame:
    files = sorted((out / FOLDER).iterdir())
    tables = [pq.read_table(pa.BufferReader(file.read_bytes()[32:])) for file in files]
    return pd.concat([table.to_pandas() for table in tables])


def repeated(files: Path, unit_rows: int) -> tuple[int, int]:
    """The rows whose text another unit has, and how many texts these are, found plainly."""
    found: dict[str, Counter[tuple[str, int]]] = {}
    for path in sorted(files.glob("*.parquet")):
        for i, text in enumerate(pq.read_table(path)["text"].to_pylist()):
            if text is not None:
                found.setdefault(text, Counter())[path.name, i // unit_rows] += 1
    several = [units for units in found.values() if len(units) > 1]
    return sum(units.total() for units in several), len(several)


@pytest.mark.parametrize("runner", ["inline", "ray"])
def test_each_repeated_text_is_scored_once(runner, corpus, tiny_model, tmp_path, request):
    if runner == "ray":
        request.getfixturevalue("ray_here")
    run(make_job(tiny_model, corpus, tmp_path / "plain", **KEYS))
    job = make_job(tiny_model, corpus, tmp_path / "out", runner, **ONCE)
    result = run(job)
    same_answers(answers(tmp_path / "out"), answers(tmp_path / "plain"))
    sound(tmp_path / "out", rows_scored=298, rows_quarantined=2)
    planned, texts = result.run, stored(tmp_path / "out")
    assert planned.texts_once == len(texts) == texts["hash"].nunique()
    parts = [pq.read_table(path) for path in sorted((tmp_path / "out").glob("part-*"))]
    for part in parts:  # in the order of the input
        places = list(zip(part["source"].to_pylist(), part["row"].to_pylist(), strict=True))
        assert places == sorted(places)
    # Equal texts have answers that are equal to the last bit.
    found = answers(tmp_path / "out").merge(pd.read_parquet(corpus)[["id", "text"]], on="id")
    assert found.groupby("text")["score"].nunique().max() == 1
    again = run(job)
    assert (again.run.rows, again.run.texts_once) == (0, 0)


def test_counts_are_those_of_plain_code(corpus, tiny_model, tmp_path):
    keys = {**ONCE, "runtime.unit_mib": 1}
    texts = pa.concat_tables(map(pq.read_table, sorted(corpus.iterdir())))["text"].to_pylist()
    one = write(tmp_path / "in", [texts])
    result = run(make_job(tiny_model, one, tmp_path / "out", **keys))
    assert (result.run.rows_repeated, result.run.texts_once) == repeated(one, 25)
    plain = run(make_job(tiny_model, one, tmp_path / "plain", **KEYS))
    for name in (
        *("rows_scored", "rows_quarantined", "tokens", "labels", "truncated", "unlabelled"),
        *("unknown", "content"),
    ):
        assert getattr(result.run, name) == getattr(plain.run, name), name
    assert result.run.real_tokens < plain.run.real_tokens / 2


def spoil(how: str, files: list[Path], draw: random.Random) -> None:
    for path in files if how == "all" else files[:1]:
        data = bytearray(path.read_bytes())
        if how == "a bit":
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            path.write_bytes(data)
        elif how in ("foreign", "other types", "nulls", "other answers"):
            table = pq.read_table(pa.BufferReader(bytes(data[32:])))
            if how == "foreign":
                table = table.select(["hash"])
            elif how == "other answers":
                others = pa.array([0.5] * len(table), pa.float32())
                table = table.set_column(table.column_names.index("score"), "score", others)
            elif how == "nulls":
                nulls = pa.nulls(len(table), pa.float32())
                table = table.set_column(table.column_names.index("score"), "score", nulls)
            else:
                place = table.column_names.index("score")
                table = table.set_column(place, "score", table["score"].cast(pa.string()))
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink)
            content = sink.getvalue().to_pybytes()
            right = sha256(content).digest()
            path.write_bytes((bytes(data[:32]) if how == "other answers" else right) + content)
        else:
            path.unlink()


@pytest.mark.parametrize(
    "how", ["all", "one", "foreign", "other types", "nulls", "other answers", *["a bit"] * 8]
)
def test_answers_that_are_lost_cost_work_only(
    how, corpus, tiny_model, tmp_path, monkeypatch, request
):
    from bertbatch.runtime import repeated_texts

    score = repeated_texts.RepeatedTexts.score

    def scored(self, executor, totals, should_stop):
        deaths = score(self, executor, totals, should_stop)
        files = sorted((tmp_path / "out" / FOLDER).iterdir())
        assert files
        spoil(how, files, random.Random(request.node.name))
        return deaths

    monkeypatch.setattr(repeated_texts.RepeatedTexts, "score", scored)
    job = make_job(tiny_model, corpus, tmp_path / "out", **ONCE)
    assert run(job).exit_code == 0
    monkeypatch.undo()
    run(make_job(tiny_model, corpus, tmp_path / "plain", **KEYS))
    mine, plain = answers(tmp_path / "out"), answers(tmp_path / "plain")
    same_answers(mine, plain)
    np.testing.assert_allclose(mine["score"], plain["score"], atol=1e-5)
    sound(tmp_path / "out", rows_scored=298)
    # Nor does the next run trust it.
    assert run(job).exit_code == 0


def test_tokens_of_another_reading_are_read_again(corpus, tiny_model, tmp_path, monkeypatch):
    """As when Ray rebuilds the tokens of a unit, and a file of answers cannot be read then."""
    from bertbatch.runtime import stages

    read, times = stages.read_and_tokenize, []

    def twice(context, units):
        first = read(context, units)
        if units[0].repeats is None or len(times) > 3:
            return first
        times.append(1)
        bare = [replace(unit, repeats=None) for unit in units]
        for one, other in zip(first, read(context, bare), strict=True):
            one.tokens = other.tokens
        return first

    monkeypatch.setattr(stages, "read_and_tokenize", twice)
    result = run(make_job(tiny_model, corpus, tmp_path / "out", **ONCE))
    assert (result.exit_code, len(times)) == (0, 4)
    monkeypatch.undo()
    run(make_job(tiny_model, corpus, tmp_path / "plain", **KEYS))
    same_answers(answers(tmp_path / "out"), answers(tmp_path / "plain"))


def test_what_stops_the_search_does_not_stop_the_run(corpus, tiny_model, tmp_path, monkeypatch):
    from bertbatch.runtime import repeated_texts

    def fails(*given):
        raise MemoryError("a text too large")

    monkeypatch.setattr(repeated_texts, "hashes_of", fails)
    result = run(make_job(tiny_model, corpus, tmp_path / "memory", **ONCE))
    assert (result.exit_code, result.run.rows_repeated) == (0, 0)
    monkeypatch.undo()

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Search, "add", full)
    result = run(make_job(tiny_model, corpus, tmp_path / "disk", **ONCE))
    assert (result.exit_code, result.run.rows_repeated) == (0, 0)
    sound(tmp_path / "disk", rows_scored=298)


@pytest.mark.parametrize("after", [1, 3, 5, 8])
def test_a_stop_is_heeded_while_texts_are_looked_for(
    after, corpus, tiny_model, tmp_path, monkeypatch
):
    from bertbatch.runtime.run import _Run

    asked = []

    def stop(self):
        asked.append(1)
        self._signal.number = 15 if len(asked) >= after else 0
        return bool(self._signal.number)

    monkeypatch.setattr(_Run, "_should_stop", stop)
    job = make_job(tiny_model, corpus, tmp_path / "out", **ONCE)
    assert run(job).exit_code == 143
    assert len(asked) <= after + 4
    monkeypatch.undo()
    assert run(job).exit_code == 0
    sound(tmp_path / "out", rows_scored=298)


def test_later_files_use_answers_of_earlier_runs(tiny_model, tmp_path):
    texts = make_texts(30, seed=8)
    files = write(tmp_path / "in", [texts, texts])
    job = make_job(tiny_model, files, tmp_path / "out", **ONCE)
    first = run(job)
    write(files, [texts[:20], ["another"] * 3], first=1000)
    second = run(job)
    assert (first.run.texts_once, second.run.texts_once) == (len({*texts}), 0)
    assert second.run.rows_repeated == 20
    sound(tmp_path / "out", rows_scored=83)
    run(make_job(tiny_model, files, tmp_path / "plain", **KEYS))
    same_answers(answers(tmp_path / "out"), answers(tmp_path / "plain"))
    # It is no part of the contract: it may be left out, or begin later.
    write(files, [texts[:20]], first=2000)
    assert run(make_job(tiny_model, files, tmp_path / "out", **KEYS)).run.rows_repeated == 0
    write(files, [texts[:20]], first=3000)
    assert run(make_job(tiny_model, files, tmp_path / "plain", **ONCE)).exit_code == 0
    sound(tmp_path / "out", rows_scored=103)


def test_a_broken_file_costs_itself(tiny_model, tmp_path):
    texts = make_texts(40, seed=9)
    files = write(tmp_path / "in", [texts, texts, texts])
    data = bytearray((files / "00000-0.parquet").read_bytes())
    data[40:400] = bytes(360)  # its footer is whole, so that it is planned
    (files / "00000-0.parquet").write_bytes(data)
    result = run(make_job(tiny_model, files, tmp_path / "out", **ONCE))
    assert result.exit_code == 3
    assert list(result.failed_sources) == ["00000-0.parquet"]
    sound(tmp_path / "out", rows_scored=80)
    assert result.run.texts_once == len({*texts})


def test_a_text_without_an_answer_is_quarantined_wherever_it_is(tiny_model, tmp_path, monkeypatch):
    from bertbatch.runtime.worker import ModelWorkers

    score = ModelWorkers.score

    def fails(self, tokens, first, stop, *more):
        lengths = tokens[""].lengths[first:stop]
        if (lengths == 21).any():
            raise ValueError("a length that it does not take")
        return score(self, tokens, first, stop, *more)

    monkeypatch.setattr(ModelWorkers, "score", fails)
    texts = [" ".join("abcdefghij"[i % 10] for i in range(n)) for n in range(1, 30)]
    files = write(tmp_path / "in", [texts, texts])
    result = run(
        make_job(tiny_model, files, tmp_path / "out", **ONCE, **{"limits.max_quarantined": 1})
    )
    bad = quarantine(tmp_path / "out")
    assert [row["row"] for row in bad] == [18, 18]
    assert all("a length that it does not take" in row["reason"] for row in bad)
    assert sorted(row["id"] for row in bad) == [18, 18 + 29]
    sound(tmp_path / "out", rows_scored=56, rows_quarantined=2)
    assert result.run.reasons.total() == 2
    assert result.run.texts_once == 28
    assert stored(tmp_path / "out")["reason"].notna().sum() == 1
    # The next run tries it: it may have been that night's fault.
    monkeypatch.undo()
    write(files, [texts, texts[:3]], first=100)
    run(make_job(tiny_model, files, tmp_path / "out", **ONCE, **{"limits.max_quarantined": 1}))
    sound(tmp_path / "out", rows_scored=88, rows_quarantined=2)


def test_pairs_conditions_limits_and_retries(tiny_model, tmp_path):
    rows = [(i, f"text {i % 6}", f"other {i % 4}", i % 5) for i in range(120)]
    frame = pd.DataFrame(rows, columns=["id", "text", "other", "kind"])
    frame.loc[3, "text"] = None
    (tmp_path / "in").mkdir()
    frame[:60].to_csv(tmp_path / "in" / "a.csv", index=False)
    frame[60:].to_csv(tmp_path / "in" / "b.csv", index=False)
    more = {
        "input.text_pair": "other", "input.where": "kind <> '2'", "input.limit": 90,
        "runtime.unit_rows": 11, "limits.max_quarantined": 1,
    }  # fmt: skip
    for name, keys in (("plain", KEYS), ("out", ONCE)):
        run(make_job(tiny_model, tmp_path / "in", tmp_path / name, **{**keys, **more}))
        sound(tmp_path / name, rows_quarantined=1)
    same_answers(answers(tmp_path / "out"), answers(tmp_path / "plain"))
    assert len(stored(tmp_path / "out")) == 12
    again = {**ONCE, **more, "runtime.retry_quarantined": True}
    assert run(make_job(tiny_model, tmp_path / "in", tmp_path / "out", **again)).run.rows_again == 1
    sound(tmp_path / "out", rows_quarantined=1)


def test_nothing_carried_and_few_columns(corpus, tiny_model, tmp_path):
    keys = {"runtime.unit_rows": 25, "output.columns": ["score"]}
    run(make_job(tiny_model, corpus, tmp_path / "plain", **keys))
    keys["input.dedupe"] = "corpus"
    result = run(make_job(tiny_model, corpus, tmp_path / "out", **keys))
    assert result.exit_code == 0
    sound(tmp_path / "out", rows_scored=298)
    frames = [
        pd.read_parquet(tmp_path / name).sort_values(["source", "row"], ignore_index=True)
        for name in ("out", "plain")
    ]
    assert list(frames[0].columns) == ["source", "row", "score"]
    pd.testing.assert_frame_equal(*frames, atol=1e-5)


def test_statistics_are_refused(tiny_model, corpus, tmp_path):
    with pytest.raises(JobError, match=r"input\.dedupe"):
        Job.build(
            {
                "input": {"path": str(corpus), "dedupe": "corpus"},
                "output": {"path": str(tmp_path / "out")},
                "attention": {},
            }
        )
