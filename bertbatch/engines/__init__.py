"""Engines run the forward pass: a padded batch in, logits out.

An engine is one module with one class that follows `Engine`, and one line in `load_engine`.
"""

from typing import Protocol

import numpy as np

from bertbatch.job import Model
from bertbatch.model import ModelSpec


class Engine(Protocol):
    name: str
    device: str
    dtype: str
    tokens_per_batch: int

    def logits(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Logits float32 [rows, classes] of ids int64 [rows, length] and mask, bool, likewise."""


def load_engine(spec: ModelSpec, settings: Model, device: str, threads: int) -> Engine:
    """The engine that a worker keeps for the whole run. Raises JobError if it cannot load."""
    from bertbatch.engines.torch_engine import TorchEngine

    return TorchEngine(spec, settings, device, threads)


def describe(engine: Engine) -> dict[str, str | int]:
    """What was chosen, for the log and the run's record."""
    return {
        "engine": engine.name,
        "device": engine.device,
        "dtype": engine.dtype,
        "tokens_per_batch": engine.tokens_per_batch,
    }
