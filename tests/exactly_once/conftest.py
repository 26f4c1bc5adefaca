"""Answers of a run without faults, and a scheduler that does not sleep."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from bertbatch import Result
from bertbatch.runtime import scheduler
from tests.helpers.jobs import CARRY
from tests.helpers.outputs import answers
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts


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


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two files, of which the second is the first by name; one row has no text."""
    texts = make_texts(90)
    (tmp_path / "in").mkdir()
    write_parquet(tmp_path / "in" / "b.parquet", [*texts[:50], None], 100, row_group_size=10)
    write_parquet(tmp_path / "in" / "a.parquet", texts[50:], 0, row_group_size=10)
    return tmp_path / "in"


@pytest.fixture
def output(source: Path, tmp_path: Path, score: Callable[..., Result]) -> Path:
    """Their output, in parts of ten rows."""
    score(source, tmp_path / "out", **CARRY, **{"runtime.unit_rows": 10})
    return tmp_path / "out"
