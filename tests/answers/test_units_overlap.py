"""On a GPU the next unit's first batch is started before this one's last answer is fetched."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event, Lock
from typing import Any

import numpy as np
import pytest

from bertbatch.engines.calibration import _rate, rough_rate
from bertbatch.engines.engine import Running
from bertbatch.engines.probe_texts import make_probe
from bertbatch.engines.scoring import score
from bertbatch.errors import OutOfMemory
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from bertbatch.model.tokenizer import Tokenizer
from bertbatch.model.tokens import Batch, Tokens
from tests.helpers.tiny import make_texts, settled


class Late:
    """A real engine; the last answer of `batches` comes once another batch was started."""

    def __init__(self, engine: Any, batches: int, seconds: float):
        self._engine, self._batches, self._seconds = engine, batches, seconds
        self._started, self._beyond = 0, Event()
        self.waited_in_vain = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def start(self, batch: Batch) -> Running:
        self._started += 1
        number = self._started
        if number > self._batches:
            self._beyond.set()
        running: Running = self._engine.start(batch)

        def logits() -> np.ndarray:
            if number == self._batches:
                self.waited_in_vain += not self._beyond.wait(self._seconds)
            return running.answer()

        return replace(running, answer=logits)


@pytest.fixture
def spec(tiny_model):
    return check_model(Model(name=tiny_model))


@pytest.fixture
def tokens(spec) -> Tokens:
    return Tokenizer(spec).encode(make_texts(60))


def engine_of(spec: Any, budget: int = 300) -> Any:
    engine = settled(spec, Model(dtype="float32"))
    engine.tokens_per_batch = budget
    return engine


def batches(engine: Any, tokens: Tokens) -> int:
    counting = Late(engine, 10**9, 0)
    score(counting, tokens, 0, len(tokens.lengths))
    return counting._started


@pytest.mark.parametrize(("threads", "in_vain"), [(2, 0), (1, 1)])
def test_the_next_units_first_batch_does_not_wait(threads, in_vain, spec, tokens):
    engine = engine_of(spec)
    wanted = score(engine, tokens, 0, 60).answers.values
    late = Late(engine, batches(engine, tokens), seconds=60.0 if threads == 2 else 0.2)
    turn = Lock()
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(score, late, tokens, 0, 60, lambda: None, turn) for _ in range(2)]
        for job in jobs:
            np.testing.assert_array_equal(job.result().answers.values, wanted)
    assert late.waited_in_vain == in_vain


class Small(Late):
    """Memory for half of what is asked for first; the error comes with the answer."""

    def start(self, batch: Batch) -> Running:
        running: Running = self._engine.start(batch)
        if len(batch.ids) <= 160:
            return running

        def fails() -> np.ndarray:
            raise OutOfMemory("too much")

        return replace(running, answer=fails)


def test_two_units_that_run_out_of_memory_together_are_whole(spec, tokens):
    wanted = score(engine_of(spec, 150), tokens, 0, 60).answers.values
    small, turn = Small(engine_of(spec), 0, 0), Lock()
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(score, small, tokens, 0, 60, lambda: None, turn) for _ in range(2)]
        for job in jobs:
            np.testing.assert_allclose(job.result().answers.values, wanted, atol=1e-5)
    assert small.tokens_per_batch == 150


def test_a_rate_is_there_for_a_single_batch_too(spec, tokens):
    engine = engine_of(spec, 10**6)
    assert _rate(engine, tokens, tokens.lengths) > 0
    assert rough_rate(engine_of(spec), make_probe(Tokenizer(spec), spec.max_length)) > 0


def test_what_is_left_over_is_no_measure(spec, tokens):
    """Only full batches are timed."""
    sizes: list[int] = []

    class Noted(Late):
        def start(self, batch: Batch) -> Running:
            sizes.append(len(batch.ids))
            running: Running = self._engine.start(batch)
            return running

    lengths = np.append(np.full(40, 10), 3)
    ids = np.full(int(lengths.sum()), 7, np.int32)
    left_over = replace(
        Tokenizer(spec).encode(["a"] * 41),
        ids=ids,
        offsets=np.append(0, np.cumsum(lengths)),
        pair_starts=lengths,
        types=np.zeros(len(ids), np.int8),
    )
    _rate(Noted(engine_of(spec, 20), 0, 0), left_over, lengths)
    assert set(sizes) == {20}
