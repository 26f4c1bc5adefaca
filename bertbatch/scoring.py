"""A tokenized unit in, a scored unit out: dedup, batch, forward, back in input order."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bertbatch.batching import batches, distinct, padded
from bertbatch.engines import Engine
from bertbatch.tokenizer import Tokens


@dataclass(frozen=True)
class Scored:
    """Logits float32 [rows, classes] in input order, and what they cost.

    `real_tokens` and `computed_tokens` count the forward passes' tokens without and with
    padding.
    """

    logits: np.ndarray
    real_tokens: int
    computed_tokens: int


def score(
    engine: Engine,
    tokens: Tokens,
    first: int,
    stop: int,
    pad_id: int,
    go_on: Callable[[], None] = lambda: None,
) -> Scored:
    """Scores the rows from `first` to `stop`. `go_on` is called between batches and may raise."""
    offsets = tokens.offsets[first : stop + 1]
    unique, inverse = distinct(tokens.ids, offsets)
    lengths = np.diff(offsets)[unique]
    logits: np.ndarray | None = None
    computed = 0
    for batch in batches(lengths, engine.tokens_per_batch):
        go_on()
        ids, mask = padded(tokens.ids, offsets, unique[batch], pad_id)
        answer = engine.logits(ids, mask)
        if logits is None:
            logits = np.empty((len(unique), answer.shape[1]), np.float32)
        logits[batch] = answer
        computed += ids.size
    if logits is None:
        logits = np.empty((0, 0), np.float32)
    return Scored(logits[inverse], int(lengths.sum()), computed)
