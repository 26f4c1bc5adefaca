"""Engines run the forward pass: a batch of token ids in, logits out.

An engine is one file with one class that follows `Engine`, and one line in `ENGINES`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bertbatch.engines.batching import SPLITS, Batching
from bertbatch.errors import JobError
from bertbatch.job.schema import Model
from bertbatch.model.spec import ModelSpec
from bertbatch.registry import ENGINES

if TYPE_CHECKING:
    from bertbatch.engines.attention_stats import Watch
    from bertbatch.engines.probe import Probe


def check_installed(engine: str) -> None:
    """Raises JobError if this Python has not what an engine, or auto, needs."""
    if engine != "auto" and not ENGINES[engine].installed:
        raise JobError(
            f"model.engine {engine} is not installed on this machine; install "
            f"'bertbatch[{ENGINES[engine].extra}]', or leave model.engine at auto"
        )


def check_settings(settings: Model, device: str) -> None:
    """Raises JobError for what there is not: an engine's precision on a device."""
    engine, dtype = settings.engine, settings.dtype
    if engine == "openvino" and device == "cuda":
        raise JobError("model.engine openvino runs on CPUs; set runtime.device: cpu")
    if engine == "openvino" and dtype in ("float16", "int8"):
        raise JobError(f"model.engine openvino has no dtype {dtype}; use auto")
    if dtype == "int8" and device == "cuda":
        raise JobError("model.dtype int8 is for CPUs; use auto, or runtime.device: cpu")
    if dtype == "float16" and device == "cpu":
        raise JobError(
            "model.dtype float16 is many times slower than float32 on CPUs; use auto, float32 or "
            "bfloat16"
        )


@dataclass(frozen=True)
class Running:
    """A batch under way.

    `logits` waits for its answer, float32 [rows, classes], and may raise OutOfMemory, as may
    `statistics`, if they were asked for: values float32 [rows, statistics, layers · heads]
    and the query tokens behind each, int32 [rows, statistics]. `computed_tokens` counts
    padding, too.
    """

    computed_tokens: int
    logits: Callable[[], np.ndarray]
    statistics: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None


class Engine(Protocol):
    """A loaded model; it scores once it is settled.

    `batching`: which rows may share a batch. `reason`: why not more of them, if so.
    `budgets` are the tokens per batch that a calibration should try, the default first.
    """

    name: str
    device: str
    dtype: str
    batching: Batching
    reason: str
    tokens_per_batch: int
    budgets: tuple[int, ...]

    def settle(self, probe: "Probe", known: Mapping[str, Any] | None = None) -> None:
        """Finds out by a probe how to batch, or does as an engine of its kind has found out.

        `known` has that one's `dtype` and `batching`. Raises JobError if the model cannot be
        scored in any way, or not as the job asks.
        """

    def use(self, batching: Batching) -> None:
        """Makes ready for such batches, right or not. Raises whatever its model's code does."""

    def start(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        seconds: np.ndarray | None = None,
        types: np.ndarray | None = None,
        watch: bool = False,
    ) -> Running:
        """Starts a batch: the rows' ids end to end, int32 [total], and lengths [rows].

        `seconds` [rows] are where the second texts of pairs start, the length for a single
        text; without, all are single. `types` [total] are the token types that the tokenizer
        gives, if it does. With `watch`, attention statistics are computed. Raises OutOfMemory.
        """


def load_engine(
    name: str,
    spec: ModelSpec,
    settings: Model,
    device: str,
    threads: int,
    watch: "Watch | None" = None,
) -> Engine:
    """An engine with the model loaded, able to give the statistics of `watch`; to be settled.

    Raises JobError if it cannot be had.
    """
    check_settings(settings, device)
    check_installed(name)
    implementation = ENGINES[next(iter(ENGINES)) if name == "auto" else name].load()
    engine: Engine = implementation(spec, settings, device, threads, watch)
    return engine


def batches(engine: Engine, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Row indices of each batch, as the engine takes them."""
    return SPLITS[engine.batching](lengths, engine.tokens_per_batch)
