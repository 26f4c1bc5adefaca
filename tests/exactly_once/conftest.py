"""Answers of a run without faults, and a scheduler that does not sleep."""

import time
from types import SimpleNamespace

import pandas as pd
import pytest

from bertbatch.runtime import scheduler
from tests.helpers.outputs import answers


@pytest.fixture
def expected(score, corpus, tmp_path) -> pd.DataFrame:
    """The fault-free answers."""
    score(corpus, tmp_path / "expected", **{"input.carry": ["id"]})
    return answers(tmp_path / "expected")


@pytest.fixture(scope="module")
def at_once():
    """The loop does not sleep until simulated workers have their models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "time", SimpleNamespace(monotonic=time.monotonic, sleep=id))
        yield
