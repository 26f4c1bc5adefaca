"""The forward passes of a tokenized unit.

Distinct rows are scored once, in batches; the answers are put back into the input's order.
"""

import logging
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertbatch.engines.engine import Engine, Running, batches
from bertbatch.errors import OutOfMemory
from bertbatch.model.tokens import Answers, Tokens, places

log = logging.getLogger("bertbatch")

AHEAD = 1  # batches started before an answer is fetched, so that a GPU does not wait


@dataclass(frozen=True)
class Scored:
    """Answers in input order, and their cost.

    `real_tokens` and `computed_tokens` count the forward passes' tokens without and with
    padding. `statistics` are the attention statistics of sampled rows, if there are any.
    """

    answers: Answers
    real_tokens: int
    computed_tokens: int
    statistics: "Statistics | None" = None
    selection: int = 0  # of the tokens


@dataclass(frozen=True)
class Statistics:
    """Attention statistics of distinct texts, and the text of each row.

    `values` float32 [texts, statistics, layers · heads], `counts` int32 [texts, statistics]
    the query tokens behind them; `text` int64 [rows], −1 for rows that are not sampled.
    """

    values: np.ndarray
    counts: np.ndarray
    text: np.ndarray


def score(
    engine: Engine,
    tokens: Tokens,
    first: int,
    stop: int,
    go_on: Callable[[], None] = lambda: None,
    turn: AbstractContextManager[Any] | None = None,
) -> Scored:
    """Scores the rows from `first` to `stop`; equal token sequences are scored once.

    When the device runs out of memory, the engine's budget is halved permanently. `go_on` is
    called between batches and may raise. `turn` is held while batches are started: another
    thread starts its first one while this one waits for its last answers. Raises OutOfMemory if
    a single row is too much.
    """
    unique, inverse = np.unique(tokens.first_duplicate[first:stop], return_inverse=True)
    lengths = tokens.lengths[unique]
    sampled = np.zeros(len(unique), bool)
    sampled[inverse[tokens.sampled[first:stop]]] = True
    done = np.zeros(len(unique), bool)
    answers = np.empty((0, 0), np.float32)
    # Where the tokens of each text begin, if it is tokens that have answers.
    offsets = np.append(0, np.cumsum(lengths)) if engine.per_token else None
    values, counts = np.empty((0, 0, 0), np.float32), np.empty((0, 0), np.int32)
    place = np.cumsum(sampled) - 1  # of a sampled text among the sampled texts
    computed = 0
    running: deque[tuple[np.ndarray, Running]] = deque()

    def collect() -> None:
        nonlocal answers, computed, values, counts
        rows, batch = running.popleft()
        answer = batch.answer()
        if not done.any():
            size = len(unique) if offsets is None else int(offsets[-1])
            answers = np.empty((size, *answer.shape[1:]), np.float32)
        answers[rows if offsets is None else places(offsets, rows)] = answer
        if batch.statistics:
            of_rows, behind = batch.statistics()
            if not len(values):
                values = np.empty((place[-1] + 1, *of_rows.shape[1:]), np.float32)
                counts = np.empty((place[-1] + 1, behind.shape[1]), np.int32)
            values[place[rows]], counts[place[rows]] = of_rows, behind
        done[rows] = True
        computed += batch.computed_tokens

    while not done.all():
        with_statistics = bool((sampled & ~done).any())
        left = np.flatnonzero(~done & (sampled == with_statistics))
        try:
            with turn or nullcontext():
                budget = engine.tokens_per_batch
                for batch in batches(engine, lengths[left]):
                    go_on()
                    rows = left[batch]
                    running.append((rows, engine.start(tokens.take(unique[rows], with_statistics))))
                    if len(running) > AHEAD:
                        collect()
            while running:
                collect()
        except OutOfMemory:
            running.clear()
            if budget <= lengths[~done].max():
                raise
            # Another thread may have halved it, too.
            engine.tokens_per_batch = min(engine.tokens_per_batch, budget // 2)
            log.warning(
                "out of memory: continuing with %d tokens per batch", engine.tokens_per_batch
            )
    statistics = None
    if sampled.any():
        text = np.where(tokens.sampled[first:stop], place[inverse], -1)
        statistics = Statistics(values, counts, text)
    return Scored(
        Answers(answers, offsets).take(inverse),
        int(lengths.sum()),
        computed,
        statistics,
        tokens.selection,
    )
