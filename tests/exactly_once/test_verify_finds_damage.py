"""`bertbatch verify` finds every kind of harm, and nothing in an output that is whole."""

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from bertbatch import JobError, run
from bertbatch.checks.rescore import rescore
from bertbatch.checks.verify import verify
from bertbatch.cli import app
from bertbatch.display.verdict import show_verdict
from bertbatch.native.kernels import find_kernels
from bertbatch.output import lease
from bertbatch.output.folder import open_output
from bertbatch.output.part import FOOTER_KEY, encode_part
from tests.helpers.jobs import make_job
from tests.helpers.operators import remove
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_model):
    """An output with quarantine, attention statistics and two labels, not to be touched."""
    folder = tmp_path_factory.mktemp("verify")
    texts = [*make_texts(115), None, *make_texts(20, 1), None]
    write_parquet(folder / "in" / "a.parquet", texts[:90], row_group_size=30)
    write_parquet(folder / "in" / "b.parquet", texts[90:], 90)
    keys = {"runtime.unit_rows": 30, "attention.statistics": "entropy,to_cls"}
    assert run(make_job(tiny_model, folder / "in", folder / "out", **keys)).exit_code == 0
    return folder / "out"


@pytest.fixture
def out(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "out"))


def problems(out):
    return verify(open_output(str(out))).problems


def a_part(out, quarantine=False):
    """The first part, or the first with rows in quarantine."""
    for path in sorted(out.glob("*.parquet")):
        footer = json.loads(pq.read_metadata(path).metadata[FOOTER_KEY])
        if bool(footer["rows_quarantined"]) == quarantine:
            return path, footer
    raise AssertionError


def rewrite(path, table, footer):
    path.write_bytes(encode_part(table, footer))


def test_a_whole_output_has_no_problems(whole):
    verdict = verify(open_output(str(whole)))
    assert verdict.problems == []
    assert verdict.orphans == []
    assert (verdict.rows_planned, verdict.rows_scored, verdict.rows_quarantined) == (137, 135, 2)
    assert verdict.units == verdict.parts == 5


def test_a_flipped_bit_is_found(out):
    path, _ = a_part(out)
    data = bytearray(path.read_bytes())
    data[len(data) // 8] ^= 1  # in the first columns' pages
    path.write_bytes(data)
    assert len(problems(out)) == 1


def test_a_cut_off_part_is_found(out):
    path, _ = a_part(out)
    path.write_bytes(path.read_bytes()[:-100])
    (problem,) = [p for p in problems(out) if "SUCCESS" not in p]
    assert problem.startswith(f"{path.name}: cannot be read")


def test_a_missing_part_is_found(out):
    path, _ = a_part(out)
    path.unlink()
    assert f"_SUCCESS.json is there, but {path.name} is not" in problems(out)
    (out / "_SUCCESS.json").unlink()
    assert problems(out) == []  # then it is simply not done yet


def test_a_part_that_is_there_twice_is_found(out):
    path, _ = a_part(out)
    shutil.copy(path, path.with_name(path.name.replace(path.stem[-20:], "0" * 20)))
    assert any("no unit of the plan has this part" in p for p in problems(out))


def test_a_part_in_the_place_of_another_is_found(out):
    first, second = sorted(out.glob("*.parquet"))[:2]
    shutil.copy(first, second)
    found = problems(out)
    assert any("says that it is of unit" in p for p in found)
    assert any("lost" in p for p in found)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: pa.concat_tables([t.slice(0, 1), t]), "rows of a.parquet doubled"),
        (lambda t: t.slice(1), "rows of a.parquet lost"),
        (lambda t: pa.concat_tables([t.slice(0, 1), t.slice(0, 1), t.slice(2)]), "doubled"),
    ],
)
def test_changed_rows_are_found(out, change, says):
    path, footer = a_part(out)
    rewrite(path, change(pq.read_table(path)), footer)
    assert any(says in p for p in problems(out))


def test_another_source_in_a_footer_is_found(out):
    path, footer = a_part(out)
    footer["sources"][0][1] = "1-1"
    rewrite(path, pq.read_table(path), footer)
    assert any("fingerprints" in p for p in problems(out))


def test_quarantine_gone_or_changed_is_found(out):
    _, footer = a_part(out, quarantine=True)
    side = out / footer["side_files"]["quarantine"]
    data = side.read_bytes()
    side.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert any("is not what was written" in p for p in problems(out))
    side.unlink()
    found = problems(out)
    assert any("rows in quarantine, 0 in their file" in p for p in found)
    assert any("rows of" in p and "lost" in p for p in found)


def test_statistics_that_are_not_their_rows_are_found(out):
    path, footer = a_part(out)
    table = pq.read_table(path)
    at = table.schema.get_field_index("attn_entropy")
    values = table["attn_entropy"].combine_chunks()
    higher = pa.FixedSizeListArray.from_arrays(
        pc.multiply(values.flatten(), pa.scalar(1.01, pa.float32())), values.type.list_size
    )
    rewrite(path, table.set_column(at, table.schema.field(at), higher), footer)
    assert any("the mean of attn_entropy is not that of its rows" in p for p in problems(out))


def test_a_total_that_is_wrong_is_found(out):
    success = json.loads((out / "_SUCCESS.json").read_text())
    success["rows_scored"] += 1
    (out / "_SUCCESS.json").write_text(json.dumps(success))
    assert problems(out) == ["_SUCCESS.json: rows_scored is 136, the parts have 135"]


def test_orphans_are_reported_and_deleted(out, monkeypatch):
    orphans = [out / "_bertbatch/quarantine/x-1.arrow", out / "_bertbatch/attention/x-2.arrow"]
    orphans += [out / ".0123.tmp", out / "_bertbatch/plan/.4567.tmp"]
    for path in orphans:
        path.write_bytes(b"left by a crash")
    verdict = verify(open_output(str(out)))
    assert verdict.problems == []
    assert {out / name for name in verdict.orphans} == set(orphans)
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.1)
    holder = lease.Lease(open_output(str(out)), "other", "fail")
    holder.take()
    with pytest.raises(JobError, match="is working on this output"):
        verify(open_output(str(out)), clean=True)
    holder.release()
    verdict = verify(open_output(str(out)), clean=True)
    assert (verdict.cleaned, verdict.orphans) == (4, [])
    assert not any(path.exists() for path in orphans)
    assert verify(open_output(str(out))).problems == []


def test_what_is_committed_while_orphans_are_deleted_is_kept(out, monkeypatch):
    """A part that was not there yet when the parts were listed has side files, too."""
    path, footer = a_part(out, quarantine=True)
    hidden = path.rename(path.with_suffix(".later"))
    (out / "_SUCCESS.json").unlink()
    take = lease.Lease.take

    def committed_meanwhile(self):
        hidden.rename(path)
        return take(self)

    monkeypatch.setattr(lease.Lease, "take", committed_meanwhile)
    assert verify(open_output(str(out)), clean=True).cleaned == 0
    assert (out / footer["side_files"]["quarantine"]).exists()
    monkeypatch.undo()
    assert problems(out) == []


def test_a_folder_without_a_contract_is_refused(out):
    (out / "_bertbatch" / "job.yaml").write_text("a: 1")
    with pytest.raises(JobError, match="not an output's contract"):
        verify(open_output(str(out)))


def test_the_commands_exit_code_is_the_verdict(whole, out):
    good = CliRunner().invoke(app, ["verify", str(whole)])
    assert good.exit_code == 0
    assert "137 rows planned, 135 scored + 2 quarantined" in good.stdout
    assert "OK" in good.stdout
    assert "not scored yet" not in good.stdout
    (out / "_SUCCESS.json").rename(out / "_elsewhere")
    part = a_part(out)[0].rename(out / "_part")
    stopped = CliRunner().invoke(app, ["verify", str(out)])
    assert stopped.exit_code == 0
    assert "1 planned unit not scored yet: run the job again" in stopped.stdout
    (out / "_elsewhere").rename(out / "_SUCCESS.json")
    part.unlink()
    bad = CliRunner().invoke(app, ["verify", str(out)])
    assert bad.exit_code == 3
    assert "problem: _SUCCESS.json is there" in bad.stdout
    nothing = CliRunner().invoke(app, ["verify", str(out / "nowhere")])
    assert nothing.exit_code == 2


def test_rescoring_finds_other_answers(whole, out, tiny_model):
    def again(path):
        keys = {"attention": {"statistics": ["entropy", "to_cls"]}}
        job = {
            "input": {"path": str(whole.parent / "in")},
            "output": {"path": str(path)},
            "model": {"name": tiny_model},
            **keys,
        }
        file = path.parent / "job.yaml"
        file.write_text(yaml.safe_dump(job))
        words = ["verify", str(path), "--rescore", "60", "--job", str(file)]
        return CliRunner().invoke(app, words)

    good = again(whole)
    assert good.exit_code == 0, good.output
    assert "60 rows scored again" in good.stdout
    for path in out.glob("*.parquet"):
        table = pq.read_table(path)
        footer = json.loads(pq.read_metadata(path).metadata[FOOTER_KEY])
        at = table.schema.get_field_index("scores")
        values = table["scores"].combine_chunks()
        turned = pa.array([v[::-1] for v in values.to_pylist()], values.type)
        rewrite(path, table.set_column(at, table.schema.field(at), turned), footer)
    bad = again(out)
    assert bad.exit_code == 3
    assert "scores [" in bad.stdout


def test_a_unit_scored_again_as_it_was_has_the_same_bits(tiny_model, tmp_path):
    """Or is not compared so, where it cannot be known how it was scored."""
    write_parquet(tmp_path / "in.parquet", make_texts(200))
    keys = {"runtime.unit_rows": 50, "runtime.runner": "inline"}
    job = make_job(tiny_model, tmp_path / "in.parquet", tmp_path / "out", **keys)
    assert run(job).exit_code == 0

    def bits():
        verdict = verify(open_output(str(tmp_path / "out")))
        rescore(job, str(tmp_path / "out"), 5, verdict)
        assert verdict.right
        return verdict.same_bits

    assert bits() == (50, 50)
    (path,) = (tmp_path / "out/_bertbatch/runs").iterdir()
    record = json.loads(path.read_text())
    changed = {
        "batches": {**record, "chosen": {**record["chosen"], "batches": 1}},
        "kind": {**record, "chosen": {**record["chosen"], "kinds": {"another": {}}}},
        "deaths": {**record, "worker_deaths": 1},
    }
    for what, other in changed.items():
        path.write_text(json.dumps(other))
        assert bits() is None, what


@pytest.mark.skipif(find_kernels() is None, reason="no kernels were built for this processor")
def test_an_output_made_with_kernels_is_verified_without_them(
    tiny_model, tmp_path, monkeypatch, capsys
):
    write_parquet(tmp_path / "in.parquet", make_texts(60))
    keys = {"runtime.runner": "inline"}
    job = make_job(tiny_model, tmp_path / "in.parquet", tmp_path / "out", **keys)
    assert run(job).exit_code == 0
    remove(["native"], monkeypatch)
    verdict = verify(open_output(str(tmp_path / "out")))
    rescore(job, str(tmp_path / "out"), 20, verdict)
    show_verdict(verdict)
    said = capsys.readouterr().out
    assert verdict.right
    assert verdict.same_bits is None
    assert re.search(r"not compared bit for bit: .* kernels \S+ \w+, .* is not here", said)
