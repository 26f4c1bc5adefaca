"""Odd but real inputs: links, names, column types, sources that come and go between runs."""

import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers

from bertbatch import JobError, run
from bertbatch.display.summary import show_summary
from tests.helpers.jobs import make_job
from tests.helpers.sources import spoil_a_page, write_parquet
from tests.helpers.tiny import make_model, make_texts


def five_small(folder):
    for i in range(5):
        write_parquet(folder / f"f{i}.parquet", make_texts(4, seed=i), first=4 * i)


def test_a_vanished_file_does_not_strand_the_others_of_its_unit(score, tmp_path):
    five_small(tmp_path / "in")
    keys = {"input.carry": ["id"]}
    done = score(tmp_path / "in", tmp_path / "out", **keys)
    (part,) = (tmp_path / "out").glob("*.parquet")
    part.unlink()  # planned and not scored, as after a crash
    (tmp_path / "in" / "f2.parquet").unlink()
    result = score(tmp_path / "in", tmp_path / "out", **keys)
    assert result.exit_code == 0
    assert done.totals["rows_in"] == 20
    assert sorted(result.to_pandas()["id"]) == [i for i in range(20) if i // 4 != 2]
    assert score(tmp_path / "in", tmp_path / "out", **keys).run.units == 0


def test_a_refused_run_withdraws_nothing(score, corpus, tmp_path):
    """One source was mended, another changed: the run is refused and the parts stay."""
    keys = {"input.carry": ["id"], "runtime.unit_rows": 30}
    path = corpus / "part-2.parquet"
    good = spoil_a_page(path, row_group=3)
    assert score(corpus, tmp_path / "out", **keys).exit_code == 3
    before = sorted(score_rows(tmp_path / "out"))
    path.write_bytes(good)
    write_parquet(corpus / "part-0.parquet", make_texts(7))
    with pytest.raises(JobError, match=r"part-0.parquet"):
        score(corpus, tmp_path / "out", **keys)
    assert sorted(score_rows(tmp_path / "out")) == before


def score_rows(out):
    return [i for p in out.glob("*.parquet") for i in pq.read_table(p).column("id").to_pylist()]


def test_links_count_as_files(score, tmp_path):
    write_parquet(tmp_path / "real" / "a.parquet", make_texts(3))
    write_parquet(tmp_path / "more" / "b.parquet", make_texts(2))
    (tmp_path / "in").mkdir()
    os.symlink(tmp_path / "real" / "a.parquet", tmp_path / "in" / "linked.parquet")
    os.symlink(tmp_path / "more", tmp_path / "in" / "folder")
    result = score(tmp_path / "in", tmp_path / "out")
    assert result.totals["rows_in"] == 5


def test_names_may_hold_brackets_and_colons(score, tmp_path):
    for i, name in enumerate(["a[1].parquet", "a::b.parquet", "日本 語#?.parquet"]):
        write_parquet(tmp_path / name, make_texts(3))
        result = score(tmp_path / name, tmp_path / f"out{i}")
        assert result.totals["rows_in"] == 3
        assert set(result.to_pandas()["source"]) == {name}
        show_summary(result)


def test_brackets_in_a_reason_are_no_markup(score, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("text\nfine\n")
    (tmp_path / "in" / "b.csv").write_text("[/b],x\nfine,1\n")
    result = score(tmp_path / "in", tmp_path / "out")
    show_summary(result)
    assert "[/b]" in capsys.readouterr().out
    assert result.exit_code == 3


def test_dictionaries_nested_and_null_columns_are_carried(score, tmp_path):
    texts = make_texts(120)
    kinds = pa.array(["x", "y"] * 60).dictionary_encode()
    nested = pa.array([{"a": [i, None]} for i in range(120)])
    first = pa.table(
        {"text": [None, *texts[1:60]], "kind": kinds[:60], "nested": nested[:60],
         "late": pa.nulls(60)}
    )  # fmt: skip
    second = pa.table(
        {"text": [*texts[60:119], None], "kind": kinds[60:], "nested": nested[60:],
         "late": pa.array(range(60))}
    )  # fmt: skip
    (tmp_path / "in").mkdir()
    pq.write_table(first, tmp_path / "in" / "a.parquet")
    pq.write_table(second, tmp_path / "in" / "b.parquet")
    keys = {"input.carry": ["kind", "nested", "late"]}
    result = score(tmp_path / "in", tmp_path / "out", **keys)
    assert result.exit_code == 0
    table = pq.read_table(next((tmp_path / "out").glob("*.parquet")))
    assert table.column("nested").to_pylist() == nested.to_pylist()[1:119]
    assert table.column("kind").to_pylist() == (["x", "y"] * 60)[1:119]
    assert table.column("late").to_pylist() == [None] * 59 + list(range(59))
    assert result.totals["rows_quarantined"] == 2


def test_one_shard_with_another_type_fails_alone(score, tmp_path):
    write_parquet(tmp_path / "in" / "a.parquet", make_texts(50))
    odd = pa.table({"id": ["x", "y"], "text": ["one", "two"]})
    pq.write_table(odd, tmp_path / "in" / "b.parquet")
    result = score(tmp_path / "in", tmp_path / "out", **{"input.carry": ["id"]})
    assert result.exit_code == 3
    assert list(result.failed_sources) == ["b.parquet"]
    assert result.totals["rows_scored"] == 50


def test_a_model_that_cannot_take_bfloat16_falls_back(tmp_path):
    """DeBERTa's own code mixes precisions; with dtype auto that must not cost a row."""
    make_model(tmp_path / "model")
    config = transformers.DebertaConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, relative_attention=True,
        pos_att_type=["c2p", "p2c"], type_vocab_size=0,
    )  # fmt: skip
    transformers.DebertaForSequenceClassification(config).save_pretrained(tmp_path / "model")
    write_parquet(tmp_path / "in.parquet", make_texts(20))
    job = make_job(
        str(tmp_path / "model"),
        tmp_path / "in.parquet",
        tmp_path / "out",
        **{"model.dtype": "auto"},
    )
    assert run(job).totals["rows_scored"] == 20


def test_a_packaged_name_is_no_path(score, tmp_path, tiny_model, corpus):
    """`/x/my-model` means that folder, even if `/x/my_model` is beside it."""
    shutil.copytree(tiny_model, tmp_path / "my_model")
    shutil.copytree(tiny_model, tmp_path / "my-model")
    (tmp_path / "my-model" / "config.json").write_text("{}")
    with pytest.raises(JobError, match="which has no task here"):
        run(make_job(str(tmp_path / "my-model"), corpus, tmp_path / "out"))
