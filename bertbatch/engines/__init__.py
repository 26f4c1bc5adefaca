"""Engines run the forward pass: a batch of token ids in, logits out.

An engine is one module with one class that follows `Engine`, and one line in `ENGINES`.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from bertbatch.batching import packed_batches, padded_batches
from bertbatch.job import Model
from bertbatch.model import ModelSpec

if TYPE_CHECKING:
    from bertbatch.engines.watched import Watch

ENGINES = {
    "torch": ("bertbatch.engines.torch_engine", "TorchEngine"),
    "openvino": ("bertbatch.engines.openvino_engine", "OpenVinoEngine"),
}


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
    """A loaded model. `packs`: its batches need no padding, so only their sum counts.

    `budgets` are the tokens per batch that a calibration should try, the default first.
    """

    name: str
    device: str
    dtype: str
    packs: bool
    tokens_per_batch: int
    budgets: tuple[int, ...]

    def start(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        seconds: np.ndarray | None = None,
        typed: bool = True,
        watch: bool = False,
    ) -> Running:
        """Starts a batch: the rows' ids end to end, int32 [total], and lengths [rows].

        `seconds` [rows] are where the second texts of pairs start, the length for a single
        text; without, all are single. The model hears of it by token types if it has them and
        the tokenizer gives them (`typed`). With `watch`, attention statistics are computed.
        Raises OutOfMemory.
        """


def load_engine(
    name: str,
    spec: ModelSpec,
    settings: Model,
    device: str,
    threads: int,
    watch: "Watch | None" = None,
) -> Engine:
    """An engine with the model loaded, able to give the statistics of `watch`.

    Raises JobError if it cannot be had.
    """
    module, class_ = ENGINES["torch" if name == "auto" else name]
    engine: Engine = getattr(importlib.import_module(module), class_)(
        spec, settings, device, threads, watch
    )
    return engine


def batches(engine: Engine, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Row indices of each batch, as the engine takes them."""
    split = packed_batches if engine.packs else padded_batches
    return split(lengths, engine.tokens_per_batch)
