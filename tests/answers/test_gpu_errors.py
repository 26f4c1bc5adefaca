"""Errors of a GPU, and what would cause them: told apart, and kept to the rows at fault."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertbatch.engines.batching import Batching
from bertbatch.engines.devices import device_errors
from bertbatch.errors import DeviceLost, JobError, OutOfMemory, RunError
from bertbatch.inputs.listing import list_sources
from bertbatch.inputs.rows import Types
from bertbatch.job.model import Model
from bertbatch.model.spec import ModelSpec, check_model
from bertbatch.model.tokenizer import Tokenizer
from bertbatch.model.tokens import Batch, Tokens
from bertbatch.runtime.executors.inline import InlineExecutor
from bertbatch.runtime.executors.ray import RayExecutor
from bertbatch.runtime.stages import read_and_tokenize
from bertbatch.runtime.worker import ModelWorkers
from bertbatch.units import Cut, Span, Unit
from tests.helpers.classifiers import LENGTHS, PACKED, PADDED, save, some_ids
from tests.helpers.jobs import make_job
from tests.helpers.simulated_gpu import simulated
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_model, settled

GPU_ERRORS = [
    "CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later",
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: unspecified launch failure",
    "CUDA error: misaligned address",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(…)`",
    "CUDA driver error: device-side assert triggered",
    "Triton Error [CUDA]: an illegal memory access was encountered",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "HIP error: unspecified launch failure",
]


@pytest.mark.parametrize("kind", [RuntimeError, torch.AcceleratorError])
@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("text", [*GPU_ERRORS, "CUDA error: uncorrectable ECC error encountered"])
def test_an_error_is_a_lost_gpu_if_every_further_call_fails(kind, lost, text):
    expected = DeviceLost if lost or "ECC" in text else kind
    with simulated() as gpu:
        gpu.lost = text if lost else ""
        with pytest.raises(expected) as caught, device_errors():
            raise kind(text)
    assert str(caught.value).startswith(text.partition("\n")[0])


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_no_memory_is_no_lost_gpu(error, lost):
    with simulated() as gpu:
        gpu.lost = "CUDA error: unspecified launch failure" if lost else ""
        with pytest.raises(OutOfMemory), device_errors():
            raise error


@pytest.mark.parametrize(
    "error", [RuntimeError("shape '[2]' is invalid"), ValueError("CUDA error")]
)
def test_other_errors_stay_what_they_are(error):
    with simulated() as gpu:
        gpu.lost = "CUDA error: unspecified launch failure"
        with pytest.raises(type(error), match=str(error)[:5]), device_errors():
            raise error


@pytest.mark.parametrize("batching", [Batching.PACKED, Batching.PADDED])
def test_an_index_out_of_range_loses_the_gpu(batching, tmp_path):
    spec = save(tmp_path / "bert", "bert")
    ids, good = some_ids(LENGTHS), some_ids(LENGTHS)
    ids[70] = 90
    with simulated():
        engine = settled(spec, Model(dtype="float32"), device="cuda")
        engine.use(batching)
        engine.start(Batch(good, LENGTHS, LENGTHS)).answer()
        for tried in (ids, good):
            with pytest.raises(DeviceLost, match="device-side assert"):
                engine.start(Batch(tried, LENGTHS, LENGTHS)).answer()


def test_a_gpu_lost_while_packing_is_tried_is_no_reason_to_pad(tmp_path):
    def lose(name: str) -> None:
        if "varlen" in name:
            gpu.lost = "CUDA error: an illegal memory access was encountered"
            raise torch.AcceleratorError(gpu.lost)

    spec = save(tmp_path / "bert", "bert")
    with simulated() as gpu:
        gpu.hook = lose
        with pytest.raises(DeviceLost, match="illegal memory access"):
            settled(spec, Model(), device="cuda")


def test_a_model_that_fails_on_its_first_text_is_reported(tmp_path):
    """Not with an error of the GPU, since it is the model: more positions than it has."""
    folder = make_model(tmp_path / "model", max_position_embeddings=40)
    spec = ModelSpec(**{**vars(check_model(Model(name=folder))), "max_length": 64})
    with simulated(), pytest.raises(JobError, match=r"is model\.max_length too large for it"):
        settled(spec, Model(), device="cuda")


BAD_IDS = [-1, 84, 2**31 - 1]  # the tiny model has 84 tokens


def mistake(patch: pytest.MonkeyPatch, wrong: dict[str, int]) -> None:
    """Has the tokenizer give some texts a token id that the model has not."""

    def mistaken(self: Tokenizer, texts: list[str], *rest: Any) -> Tokens:
        tokens = encode(self, texts, *rest)
        for i in (i for i, text in enumerate(texts) if text in wrong):
            tokens.ids[tokens.offsets[i] + 1 : tokens.offsets[i] + 3] = wrong[texts[i]]
        return tokens

    encode = Tokenizer.encode
    patch.setattr(Tokenizer, "encode", mistaken)


TEXTS = [f"row {i} of {i % 7}" for i in range(60)]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for i in range(3):
        write_parquet(folder / f"{i}.parquet", TEXTS[20 * i : 20 * i + 20], 20 * i)
    return folder


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.integers(0, 59), st.sampled_from(BAD_IDS)), st.booleans())
def test_ids_that_the_model_has_not_stay_with_their_rows(tiny_model, files, bad, pairs):
    """A unit of three files; the tokenizer's mistakes are simulated."""
    keys = {"input.carry": ["id"], **({"input.text_pair": "text"} if pairs else {})}
    job = make_job(tiny_model, files, files.with_name("nowhere"), **keys)
    sources = list_sources(job).sources
    unit = Unit("u", tuple(Span(source, Cut(0, 20, 0, 1, 100)) for source in sources))
    schema = pa.schema([pa.field("id", pa.int64())])
    context: Any = SimpleNamespace(
        job=job,
        specs={"": check_model(job.model)},
        format="parquet",
        types=Types(schema, pa.schema([])),
        rules={},
    )
    with pytest.MonkeyPatch.context() as patch:
        mistake(patch, {TEXTS[row]: id_ for row, id_ in bad.items()})
        (prepared,) = read_and_tokenize(context, [unit])
    kept = [row for row in range(60) if row not in bad]
    assert prepared.passthrough.carried["id"].to_pylist() == kept
    assert (20 * prepared.passthrough.source + prepared.passthrough.row).tolist() == kept
    tokens = prepared.tokens[""]
    assert prepared.rows == len(kept) == len(tokens.lengths)
    assert ((tokens.ids >= 0) & (tokens.ids < 84)).all()
    wanted = {
        row: f"the tokenizer gives the token id {id_}, the model has 84 tokens"
        for row, id_ in bad.items()
    }
    table = prepared.passthrough.bad.to_pylist()
    assert {row["id"]: row["reason"] for row in table} == wanted
    assert all(int(row["source"][0]) * 20 + row["row"] == row["id"] for row in table)


def test_ids_that_the_model_has_not_cost_no_other_row(score, files, tmp_path, monkeypatch):
    expected = score(files, tmp_path / "expected", **{"input.carry": ["id"]}).to_pandas()
    mistake(monkeypatch, {TEXTS[3]: 84, TEXTS[41]: -1})
    keys = {"input.carry": ["id"], "limits.max_quarantined": 1}
    result = score(files, tmp_path / "out", **keys)
    assert result.exit_code == 0
    assert result.run.reasons == {
        "the tokenizer gives the token id 84, the model has 84 tokens": 1,
        "the tokenizer gives the token id -1, the model has 84 tokens": 1,
    }
    pd.testing.assert_frame_equal(
        result.to_pandas().sort_values("id", ignore_index=True),
        expected.sort_values("id").drop([3, 41]).reset_index(drop=True),
        check_exact=False, atol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [*PACKED, *PADDED])
def test_the_size_of_a_vocabulary_is_read_off_the_weights(kind, tmp_path):
    assert save(tmp_path / kind, kind).vocabulary == 90


def test_a_lost_gpu_passes_through_ray(ray_here):
    import ray

    @ray.remote
    def lose() -> None:
        raise DeviceLost("CUDA error: device-side assert triggered")

    assert str(pickle.loads(pickle.dumps(DeviceLost("CUDA error")))) == "CUDA error"
    with pytest.raises(DeviceLost, match="device-side assert"):
        object.__new__(RayExecutor)._get(lose.remote())


def test_without_other_processes_a_lost_gpu_ends_the_run(monkeypatch):
    def lose(*_: Any) -> Any:
        raise DeviceLost("CUDA error: device-side assert triggered")

    monkeypatch.setattr(ModelWorkers, "score", lose)
    executor: Any = object.__new__(InlineExecutor)
    executor._workers = object.__new__(ModelWorkers)
    with pytest.raises(RunError, match=r"device-side assert.*runtime\.runner: ray"):
        executor._score(None, 0, 1)
