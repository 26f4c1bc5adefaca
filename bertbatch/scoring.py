"""A tokenized unit in, a scored unit out: distinct rows, batches, forward, input order."""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bertbatch.batching import gather
from bertbatch.engines import Engine, OutOfMemory, Running, batches
from bertbatch.tokenizer import Tokens

log = logging.getLogger("bertbatch")

AHEAD = 1  # batches begun before the last one's answer is fetched: a GPU need not wait for us


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
    go_on: Callable[[], None] = lambda: None,
) -> Scored:
    """Scores the rows from `first` to `stop`; equal token sequences are scored once.

    When the device runs out of memory, the engine's budget is halved, for good. `go_on` is
    called between batches and may raise. Raises OutOfMemory if one row alone is too much.
    """
    unique, inverse = np.unique(tokens.twins[first:stop], return_inverse=True)
    lengths = tokens.lengths[unique]
    done = np.zeros(len(unique), bool)
    logits = np.empty((0, 0), np.float32)
    computed = 0
    running: deque[tuple[np.ndarray, Running]] = deque()

    def collect() -> None:
        nonlocal logits, computed
        rows, batch = running.popleft()
        answer = batch.logits()
        if not done.any():
            logits = np.empty((len(unique), answer.shape[1]), np.float32)
        logits[rows] = answer
        done[rows] = True
        computed += batch.computed_tokens

    while not done.all():
        left = np.flatnonzero(~done)
        try:
            for batch in batches(engine, lengths[left]):
                go_on()
                rows = left[batch]
                ids = gather(tokens.ids, tokens.offsets, unique[rows])
                running.append((rows, engine.start(ids, lengths[rows])))
                if len(running) > AHEAD:
                    collect()
            while running:
                collect()
        except OutOfMemory:
            running.clear()
            if engine.tokens_per_batch <= lengths[~done].max():
                raise
            engine.tokens_per_batch //= 2
            log.warning("out of memory: going on with %d tokens a batch", engine.tokens_per_batch)
    return Scored(logits[inverse], int(lengths.sum()), computed)
