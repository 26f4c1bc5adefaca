"""What an engine is: a loaded model that turns batches of token ids into answers.

An engine is one file with one class that follows `Engine`, and one line in `ENGINES`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bertbatch.engines.batching import SPLITS, Batching
from bertbatch.errors import JobError
from bertbatch.job.model import Model
from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokens import Batch
from bertbatch.registry import ENGINES

if TYPE_CHECKING:
    from bertbatch.engines.attention_stats import AttentionStats
    from bertbatch.engines.probe import Probe


@dataclass(frozen=True)
class EngineOptions:
    """How to load an engine.

    `device` is "cpu" or "cuda", `threads` the number of CPU threads that it may use.
    `statistics` computes attention statistics; None if none are wanted. `expected_tokens`: how
    many there are to score, roughly, of which a share may be spent on finding the fastest way.
    """

    settings: Model
    device: str
    threads: int
    statistics: "AttentionStats | None" = None
    expected_tokens: int = 0


@dataclass(frozen=True)
class Running:
    """A batch under way.

    `answer` waits for the answer, float32 [rows, classes or dimensions], or [tokens, classes] end
    to end where each token has one, and may raise OutOfMemory.
    `statistics` does the same for attention statistics, if the batch asks for them: values
    float32 [rows, statistics, layers · heads], and the query tokens behind each value, int32
    [rows, statistics]. `computed_tokens` includes padding.
    """

    computed_tokens: int
    answer: Callable[[], np.ndarray]
    statistics: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None


class Engine(Protocol):
    """A loaded model. It can score once it is settled.

    `per_token`: each token has an answer, instead of each row. `batching`: which rows may share a
    batch. `reason`: why a faster way of batching was rejected;
    empty if none was. `operators`: those of a packed model's layers on a CPU, by the layers' kinds.
    `budgets`: the tokens per batch that a calibration tries, the default first.
    """

    name: str
    device: str
    dtype: str
    per_token: bool
    batching: Batching
    reason: str
    operators: dict[str, str]
    tokens_per_batch: int
    budgets: tuple[int, ...]

    def __init__(self, spec: ModelSpec, options: EngineOptions): ...

    def settle(self, probe: "Probe", known: Mapping[str, Any] | None = None) -> None:
        """Finds out with a probe how to batch, or takes over what is known.

        `known` has the `dtype`, `batching`, `reason` and `operators` of an engine of the same kind
        that is settled. Raises JobError if the model cannot be scored, or not as the job asks.
        """

    def use(self, batching: Batching) -> None:
        """Prepares for such batches, without a check. Raises whatever the model's code raises."""

    def start(self, batch: Batch) -> Running:
        """Starts a batch. Raises OutOfMemory."""


def load_engine(spec: ModelSpec, options: EngineOptions) -> Engine:
    """The engine that the settings name, with the model loaded; not settled yet.

    Raises JobError if the engine or the model cannot be loaded.
    """
    name = options.settings.engine
    check_settings(options.settings, options.device)
    check_installed(name, spec.onnx)
    implementation: type[Engine] = ENGINES[next(iter(ENGINES)) if name == "auto" else name].load()
    return implementation(spec, options)


def settings_for(spec: ModelSpec, settings: Model) -> Model:
    """The settings, with the engine that a graph in ONNX needs."""
    return settings.model_copy(update={"engine": "openvino"}) if spec.onnx else settings


def check_installed(engine: str, graph: bool = False) -> None:
    """Raises JobError if what an engine needs is not installed; auto needs nothing.

    `graph`: the model is one in ONNX, which needs this engine.
    """
    if engine != "auto" and not ENGINES[engine].installed:
        extra = f"install 'bertbatch[{ENGINES[engine].extra}]'"
        raise JobError(
            f"a model.onnx needs {engine}, which is not installed on this machine; {extra}"
            if graph
            else f"model.engine {engine} is not installed on this machine; {extra}, or leave "
            "model.engine at auto"
        )


def check_settings(settings: Model, device: str) -> None:
    """Raises JobError if an engine does not support the precision, or the device."""
    engine, dtype = settings.engine, settings.dtype
    if engine == "openvino" and device == "cuda":
        raise JobError("model.engine openvino runs on CPUs; set runtime.device: cpu")
    if engine == "openvino" and dtype in ("float16", "int8", "fp8"):
        raise JobError(f"model.engine openvino has no dtype {dtype}; use auto")
    if dtype == "int8" and device == "cuda":
        raise JobError("model.dtype int8 is for CPUs; use auto, or runtime.device: cpu")
    if dtype == "fp8" and device == "cpu":
        raise JobError("model.dtype fp8 is for GPUs; use auto, or runtime.device: cuda")
    if dtype == "float16" and device == "cpu":
        raise JobError(
            "model.dtype float16 is many times slower than float32 on CPUs; use auto, float32 or "
            "bfloat16"
        )


def batches(engine: Engine, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """The row indices of each batch, as the engine takes them."""
    return SPLITS[engine.batching](lengths, engine.tokens_per_batch)
