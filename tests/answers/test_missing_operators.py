"""Processors and builds of torch that lack an operator take another one, with the same answers."""

from typing import Any

import numpy as np
import pytest
import torch

from bertbatch import run
from bertbatch.engines import precision
from bertbatch.engines.linear_operators import LINEAR
from bertbatch.job.model import Model
from bertbatch.model.tokens import Batch
from bertbatch.native.kernels import find_kernels, levels
from tests.helpers.classifiers import LENGTHS, save, some_ids
from tests.helpers.jobs import make_job
from tests.helpers.operators import remove
from tests.helpers.paths import ROOT
from tests.helpers.reference import one_at_a_time, one_by_one
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts, settled

BUILT = find_kernels() is not None


@pytest.fixture(params=["native", "oneDNN", "native oneDNN"])
def lacking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As on a processor or a build without these operators."""
    names: list[str] = request.param.split()

    remove(names, monkeypatch)
    return names


def operators_of(result: Any) -> dict[str, str]:
    (record,) = result.output.runs()
    (chosen,) = record["chosen"]["kinds"].values()
    assert (chosen["engine"], chosen["batching"]) == ("torch", "packed")
    operators: dict[str, str] = chosen["operators"]
    return operators


def test_a_whole_job_agrees_by_other_operators(lacking, tiny_model, tmp_path, caplog):
    caplog.set_level("INFO", logger="bertbatch")
    texts = make_texts(120)
    write_parquet(tmp_path / "in.parquet", texts)
    keys = {"attention.per_row": True}
    result = run(make_job(tiny_model, tmp_path / "in.parquet", tmp_path / "out", **keys))
    expected = one_at_a_time(tiny_model, texts)
    np.testing.assert_allclose(np.stack(result.to_pandas()["scores"]), expected, atol=5e-5)
    assert not set(lacking) & set(operators_of(result).values())
    slower = bool(levels()) and ("native" in lacking or not BUILT)
    assert ("install a C++ compiler, then bertbatch again" in caplog.text) == slower


@pytest.mark.parametrize("kind", ["bert", "distilbert", "electra"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("operator", [*LINEAR])
def test_every_operator_answers_as_transformers(operator, dtype, kind, tmp_path, monkeypatch):
    """For layers of one kind each; where the operator is not there, another one is."""
    for other in [name for name in LINEAR if name not in (operator, "addmm")]:
        monkeypatch.delitem(LINEAR, other)
    spec = save(tmp_path / kind, kind, hidden_size=128)
    engine = settled(spec, Model(dtype=dtype))
    assert engine.batching == "packed"
    ids = some_ids(LENGTHS)
    wanted = one_by_one(spec, ids, LENGTHS)
    off = np.abs(engine.start(Batch(ids, LENGTHS, LENGTHS)).answer() - wanted).max()
    assert off < {"float32": 1e-4, "bfloat16": 0.1}[dtype] * np.abs(wanted).max()


def test_bfloat16_that_a_processor_lacks_is_reported_as_slow(
    tiny_model, tmp_path, monkeypatch, caplog
):
    write_parquet(tmp_path / "in.parquet", make_texts(20))
    for times in (12.0, 0.5):
        monkeypatch.setattr(precision, "times_slower", lambda *_, times=times: times)
        keys = {"model.dtype": "bfloat16"}
        caplog.clear()
        run(make_job(tiny_model, tmp_path / "in.parquet", tmp_path / f"{times}", **keys))
        said = "bfloat16 is about 12 times slower than float32 on" in caplog.text
        assert said is (times > 1)


def test_the_slowdown_is_measured_against_float32(monkeypatch):
    seconds = {torch.bfloat16: 6.0, torch.float32: 0.5}
    monkeypatch.setattr(precision, "_product_seconds", seconds.__getitem__)
    assert precision.times_slower("cpu", "bfloat16") == 12
    assert precision.times_slower("cpu", "float32") == 1
    assert precision.times_slower("cuda", "bfloat16") == 1


def test_the_platforms_are_documented():
    text = (ROOT / "docs" / "models.md").read_text()
    for name in ("Linux x86-64", "Linux ARM64", "macOS", "Windows"):
        assert f"| {name}" in text
