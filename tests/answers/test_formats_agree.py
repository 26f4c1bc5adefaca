"""The same rows have the same answers, whatever format they are in and whoever wrote them."""

import numpy as np
import pyarrow as pa
import pytest

from bertbatch.inputs.listing import list_sources
from tests.helpers.jobs import CARRY, make_job
from tests.helpers.outputs import sound
from tests.helpers.reference import one_at_a_time
from tests.helpers.tiny import make_texts
from tests.helpers.writers import WRITERS

ODD = [
    'say "it"',
    "a\\b\\",
    '\\"',
    "two\nlines",
    "one, two\tthree",
    "日本語 \u2028 x",
    " 'spaces' ",
]
# fmt: on
TEXTS = ODD + make_texts(33)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("named", [True, False])
def test_rows_are_read_as_they_were_written(writer, named, tmp_path, tiny_model, score) -> None:
    table = pa.table({"id": pa.array(range(len(TEXTS)), pa.int64()), "text": TEXTS})
    folder = tmp_path / "in"
    folder.mkdir()
    path = WRITERS[writer](table, folder)
    format_ = writer.partition(" ")[0].rstrip(",")
    keys = {"input.carry": ["id", "text:was"]}
    if named:
        keys["input.format"] = format_
    if writer == "csv by Spark":
        keys["input.csv"] = {"escape": "\\"}
    result = score(path, tmp_path / "out", **keys)
    found = result.to_pandas().astype({"id": int}).sort_values("id")
    was = [x.decode() if isinstance(x, bytes) else x for x in found["was"]]
    assert was == TEXTS
    wanted = one_at_a_time(tiny_model, TEXTS)
    np.testing.assert_allclose(np.stack(found["scores"]), wanted, atol=5e-5)
    sound(tmp_path / "out", rows_scored=len(TEXTS), rows_quarantined=0)


def test_text_has_a_row_for_each_line_or_file(tmp_path, tiny_model, score) -> None:
    texts = [text for text in TEXTS if "\n" not in text]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes("\r\n".join(["\ufeff" + texts[0], *texts[1:]]).encode())
    (tmp_path / "in" / "b.txt").write_bytes(b"\xff\n\n")
    result = score(tmp_path / "in", tmp_path / "lines")
    found = result.to_pandas().sort_values(["source", "row"])
    wanted = one_at_a_time(tiny_model, [*texts, ""])
    np.testing.assert_allclose(np.stack(found["scores"]), wanted, atol=5e-5)
    sound(tmp_path / "lines", rows_scored=len(texts) + 1, rows_quarantined=1)
    assert dict(result.run.reasons) == {"the text is not valid utf-8": 1}

    whole = "\r\n".join(texts)
    found = score(tmp_path / "in", tmp_path / "files", **{"input.text_rows": "file"}).to_pandas()
    np.testing.assert_allclose(found["scores"][0], one_at_a_time(tiny_model, [whole])[0], atol=5e-5)
    sound(tmp_path / "files", rows_scored=1, rows_quarantined=1)


def test_a_note_beside_data_is_no_data(tmp_path, score) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.csv").write_text("id,text\n1,good\n")
    (tmp_path / "in" / "README.txt").write_text("Scraped in May.\n")
    listing = list_sources(make_job("sentiment-mini", tmp_path / "in", tmp_path / "out"))
    assert (listing.format, [s.id for s in listing.sources]) == ("csv", ["x.csv"])
    assert listing.left_out == {"text files beside csv files": 1}


@pytest.mark.parametrize("format_", ["parquet", "jsonl", "arrow"])
def test_fields_of_structs_are_columns(format_, tmp_path, tiny_model, score) -> None:
    texts = TEXTS[:9]
    inner = [{"body": text, "n": i} if i != 4 else None for i, text in enumerate(texts)]
    table = pa.table({"doc": inner, "doc.n": range(10, 19)})
    name = {"parquet": "parquet by polars", "jsonl": "jsonl by polars", "arrow": "arrow file"}
    path = WRITERS[name[format_]](table, tmp_path)
    keys = {"input.text": "doc.body", "input.carry": ["doc.n", "doc.body:was", "doc"]}
    result = score(path, tmp_path / "out", **keys)
    found = result.to_pandas().sort_values("row")
    kept = [i for i in range(9) if i != 4]
    assert found["doc.n"].tolist() == [10 + i for i in kept]  # a column's own name comes first
    assert found["was"].tolist() == [texts[i] for i in kept]
    assert found["doc"].tolist() == [inner[i] for i in kept]
    wanted = one_at_a_time(tiny_model, [texts[i] for i in kept])
    np.testing.assert_allclose(np.stack(found["scores"]), wanted, atol=5e-5)
    assert dict(result.run.reasons) == {"text is null": 1}


def test_types_are_those_of_the_first_file(tmp_path, score) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jsonl").write_text('{"id":1,"text":"good"}\n')
    rows = (
        '{"id":"2","text":"bad"}\n\n{"id":3.5,"text":"x"}\n{"id":4,"text":"fine"}\n{"text":"y"}\n{'
    )
    (tmp_path / "in" / "2.jsonl").write_text(rows)
    result = score(tmp_path / "in", tmp_path / "out", **CARRY)
    assert sorted(result.to_pandas()["id"].fillna(-1)) == [-1, 1, 4]
    sound(tmp_path / "out", rows_scored=3, rows_quarantined=3)
    reasons = sorted(result.run.reasons)
    assert reasons[:2] == [
        "Expected `int | null`, got `float` - at `$.id`",
        "Expected `int | null`, got `str` - at `$.id`",
    ]
