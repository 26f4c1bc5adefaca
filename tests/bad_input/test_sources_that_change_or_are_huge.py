"""Hostile inputs cost only themselves: what changes, is cut off, or is far too large."""

import json
import os
import shutil
import time
from itertools import product
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertbatch import JobError
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from bertbatch.model.tokenizer import Tokenizer
from tests.helpers.command_line import Process, finish, start, wait_for_parts
from tests.helpers.jobs import CARRY
from tests.helpers.outputs import answers, by_id, quarantine, same_answers, sound
from tests.helpers.sources import WRITE, write_csv, write_parquet
from tests.helpers.tiny import make_texts


def refused(process: Process, *words: str) -> None:
    code, said = finish(process)
    assert code == 3, said
    for word in words:
        assert word in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("parquet", "rewritten"),
        *(pytest.param(*case, marks=pytest.mark.faults)
          for case in (("csv", "rewritten"), ("parquet", "deleted"), ("csv", "deleted"))),
    ],
)  # fmt: skip
def test_a_source_changed_during_the_run_never_mixes(kind, change, score, tmp_path, tiny_model):
    """What was read before is of the old file, nothing of the new one follows it."""
    folder, out = tmp_path / "in", tmp_path / "out"
    old, new = make_texts(200, seed=1), make_texts(230, seed=2)
    WRITE[kind](folder / f"a.{kind}", make_texts(30))
    WRITE[kind](folder / f"b.{kind}", old, 1000)
    score(folder, tmp_path / "of_old", **CARRY)
    options = ("--unit-rows", "10", "--runner", "inline")
    process = start(tiny_model, folder, out, *options, FAULT_SLEEP="0.1")
    wait_for_parts(out, 6, process)
    if change == "rewritten":
        WRITE[kind](folder / f"b.{kind}", new, 1000)
        refused(process, f"b.{kind}: has changed since it was planned")
    else:
        (folder / f"b.{kind}").rename(tmp_path / "away")
        refused(process, f"b.{kind}: cannot be opened", "No such file")
    assert not (out / "_SUCCESS.json").exists()
    sound(out)
    got, expected = by_id(out), by_id(tmp_path / "of_old")
    assert 60 <= len(got) < 230
    same_answers(got, expected[expected["id"].isin(got["id"])].reset_index(drop=True))

    if change == "deleted":
        result = score(folder, out, **CARRY)
        assert result.exit_code == 3
        assert result.failed_sources == {f"b.{kind}": "is gone before all of it was scored"}
        with pytest.raises(JobError, match=rf"b.{kind}.* gone"):
            score(folder, out, **CARRY, **{"input.on_removed_source": "fail"})
        assert len(answers(out)) == len(got)
        (tmp_path / "away").rename(folder / f"b.{kind}")  # with its old time, so the same file
    score(folder, tmp_path / "of_now", **CARRY)
    result = score(folder, out, **CARRY)  # a source that failed and then changed was mended
    assert result.exit_code == 0
    sound(out, rows_scored=230 + 30 * (change == "rewritten"), rows_quarantined=0)
    same_answers(by_id(out), by_id(tmp_path / "of_now"))


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_source_changed_between_runs_is_refused_or_kept(kind, score, tmp_path, tiny_model):
    """After a kill nobody has told that the source failed: the job says what a change means."""
    folder, out = tmp_path / "in", tmp_path / "out"
    WRITE[kind](folder / f"a.{kind}", make_texts(200))
    score(folder, tmp_path / "of_old", **CARRY)
    options = ("--unit-rows", "10", "--runner", "inline")
    process = start(tiny_model, folder, out, *options, FAULT_SLEEP="0.1")
    wait_for_parts(out, 5, process)
    process.kill()
    process.wait()
    WRITE[kind](folder / f"a.{kind}", make_texts(200, seed=2))
    before = answers(out)
    (out / "_bertbatch" / "lease.json").unlink()  # not to wait for the dead run
    with pytest.raises(JobError, match=rf"a.{kind}.* changed after being planned"):
        score(folder, out, **CARRY)
    result = score(folder, out, **CARRY, **{"input.on_changed_source": "keep"})
    assert result.exit_code == 3
    assert result.failed_sources == {f"a.{kind}": "changed before all of it was scored"}
    pd.testing.assert_frame_equal(answers(out), before)
    same_answers(before, answers(tmp_path / "of_old").merge(before[["id"]]))
    sound(out, rows_scored=len(before))


def test_a_file_copied_again_is_told_from_one_that_has_other_rows(score, tmp_path):
    path = tmp_path / "in" / "a.parquet"
    write_parquet(path, make_texts(20))
    score(tmp_path / "in", tmp_path / "out")
    os.utime(path, (1, 1))
    with pytest.raises(JobError, match="sizes are as they were; if only their times"):
        score(tmp_path / "in", tmp_path / "out")
    assert (
        score(tmp_path / "in", tmp_path / "out", **{"input.on_changed_source": "keep"}).exit_code
        == 0
    )
    write_parquet(path, make_texts(21))
    with pytest.raises(JobError, match=r"the old content$"):
        score(tmp_path / "in", tmp_path / "out")


def test_a_cut_off_csv_costs_its_last_row_or_its_file(score, tmp_path):
    """A last record that lacks a field is bad; a quote left open at the end fails its file."""
    texts = make_texts(200)
    write_csv(tmp_path / "in" / "quoted.csv", texts)
    write_csv(tmp_path / "in" / "record.csv", texts)
    for name, end in (("quoted.csv", '\n199,"left op'), ("record.csv", "\n199")):
        path = tmp_path / "in" / name
        path.write_text(path.read_text().rpartition("\n199,")[0] + end)
    result = score(tmp_path / "in", tmp_path / "out", **CARRY)
    assert result.exit_code == 3
    assert list(result.failed_sources) == ["quoted.csv"]
    assert "line 201 is never closed" in result.failed_sources["quoted.csv"]
    assert result.totals["rows_scored"] == 199
    assert result.totals["rows_quarantined"] == 1
    reason = "has 1 field, the header has 2"
    assert quarantine(tmp_path / "out") == [
        {"source": "record.csv", "row": 199, "reason": reason, "id": None}
    ]


@pytest.mark.parametrize("encoding", ["utf-16-le", "latin-1", "cp932"])
def test_another_encoding_in_the_middle_of_a_csv_costs_its_rows(encoding, score, tmp_path):
    word = "日本" if encoding == "cp932" else "é"
    lines = [f"{i},{text}" for i, text in enumerate(make_texts(300))]
    odd = "\n".join(f"{i},{word}" for i in range(140, 150))
    whole = ["\n".join(lines[:140]), "\n".join(lines[150:])]
    data = b"\n".join([b"id,text", whole[0].encode(), odd.encode(encoding), whole[1].encode()])
    (tmp_path / "in.csv").write_bytes(data)
    out = tmp_path / "out"
    result = score(tmp_path / "in.csv", out, **CARRY, **{"runtime.unit_rows": 100})
    assert result.exit_code == 0
    sound(out, rows_scored=290, rows_quarantined=10)
    good = [i for i in range(300) if not 140 <= i < 150]
    assert result.to_pandas()["id"].astype(int).tolist() == good
    assert {row["row"] for row in quarantine(out)} == set(range(140, 150))
    assert all("'text' is not valid utf-8" in row["reason"] for row in quarantine(out))


def peak_mib(process: Process) -> int:
    """The most memory that a process has had when it ended, as Linux tells it."""
    most = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if "VmHWM" in status:  # else it has just ended
            most = int(status.split("VmHWM:")[1].split()[0]) >> 10
        time.sleep(0.02)
    return most


@pytest.mark.faults
@pytest.mark.parametrize(
    ("kind", "filler"), [("parquet", "words"), ("csv", "words"), ("parquet", "x"), ("csv", " ")]
)
def test_one_huge_text_is_truncated_in_bounded_memory(kind, filler, score, tmp_path, tiny_model):
    """50 MB, and at worst all blanks or one word: its beginning is scored, for 1 MB at most."""
    texts, out = make_texts(60), tmp_path / "out"
    if filler == "words":
        filler = " ".join(make_texts(10_000, seed=5))
    texts[37] = (filler * ((50 << 20) // len(filler) + 1))[: 50 << 20]
    WRITE[kind](tmp_path / f"in.{kind}", texts)
    process = start(tiny_model, tmp_path / f"in.{kind}", out, "--runner", "inline")
    peak = peak_mib(process)
    code, said = finish(process)
    assert code == 0, said
    assert peak < 1500  # 800; 600 of them without such a text
    sound(out, rows_scored=60, rows_quarantined=0)
    texts[37] = texts[37][:60_000]
    write_parquet(tmp_path / "short.parquet", texts)
    score(tmp_path / "short.parquet", tmp_path / "expected", **CARRY)
    same_answers(by_id(out), by_id(tmp_path / "expected"))
    assert by_id(out)["truncated"][37]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_huge_texts_tokens_are_those_of_the_whole(side, tmp_path, tiny_model, monkeypatch):
    shutil.copytree(tiny_model, tmp_path / "model")
    file = tmp_path / "model" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "truncation_side": side}))
    words = " ".join(make_texts(1500))
    texts = [words, "x" * 70_000 + words, words + " " * 70_000 + "end", "few " + "x" * 70_000]
    lengths: list[int] = []
    for name in (str(tmp_path / "model"), "sentiment-mini"):
        tokenizer = Tokenizer(check_model(Model(name=name)))
        found = tokenizer.encode(texts)
        with monkeypatch.context() as patch:
            patch.setattr("bertbatch.model.tokenizer.HUGE", (1 << 30,))
            whole = tokenizer.encode(texts)
        assert found.ids.tolist() == whole.ids.tolist()
        assert found.truncated.tolist() == whole.truncated.tolist() == [True, True, True, False]
        lengths += found.lengths.tolist()
    assert min(lengths) < 10


@pytest.mark.parametrize(
    ("rows", "options", "parts"),
    [
        (4_000, ("--unit-rows", "1000"), 4),
        pytest.param(1_000_000, (), 16, marks=pytest.mark.faults),
    ],
)
def test_a_large_row_group_is_cut(rows, options, parts, tmp_path, tiny_model):
    write_parquet(tmp_path / "in.parquet", make_texts(50) * (rows // 50), row_group_size=rows)
    assert pq.read_metadata(tmp_path / "in.parquet").num_row_groups == 1
    options = ("--runner", "inline", *options)
    process = start(tiny_model, tmp_path / "in.parquet", tmp_path / "out", *options)
    peak = peak_mib(process)
    code, said = finish(process)
    assert code == 0, said
    assert peak < 1500  # 1000 for a million rows
    assert len(list((tmp_path / "out").glob("*.parquet"))) >= parts
    sound(tmp_path / "out", rows_scored=rows, rows_quarantined=0)


@pytest.mark.parametrize("kind", [pytest.param("parquet", marks=pytest.mark.faults), "csv"])
def test_columns_that_are_not_used_are_not_read(kind, score, tmp_path):
    """The others hold what cannot be read, and nobody looks."""
    names = [*(f"a{i}" for i in range(5000)), "text", "id", *(f"b{i}" for i in range(5000))]
    texts, path = make_texts(120), tmp_path / f"in.{kind}"
    if kind == "csv":
        fields = b",".join([*[b"\xff"] * 5000, b"%s", b"%d", *[b"\xff"] * 5000])
        rows = [fields % (text.encode(), i) for i, text in enumerate(texts)]
        path.write_bytes(b"\n".join([",".join(names).encode(), *rows]))
    else:
        columns = dict.fromkeys(names, range(120)) | {"text": texts}
        pq.write_table(pa.table(columns), path, row_group_size=40)
        metadata = pq.read_metadata(path)
        with open(path, "r+b") as file:
            for group, column in product(range(3), (0, 4999, 5002, 10_001)):
                chunk = metadata.row_group(group).column(column)
                file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
                file.write(b"\xff" * chunk.total_compressed_size)
        with pytest.raises(OSError, match="deserialize"):
            pq.read_table(path)
    began = time.monotonic()
    result = score(path, tmp_path / "out", **CARRY, **{"runtime.unit_rows": 40})
    assert time.monotonic() - began < 10  # a tenth of that
    assert result.exit_code == 0
    sound(tmp_path / "out", rows_scored=120, rows_quarantined=0)
    assert by_id(tmp_path / "out")["id"].tolist() == list(range(120))
