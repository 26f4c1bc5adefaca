"""What a run without faults answers."""

import pandas as pd
import pytest

from tests.helpers.outputs import answers


@pytest.fixture
def expected(score, corpus, tmp_path) -> pd.DataFrame:
    """The fault-free answers."""
    score(corpus, tmp_path / "expected", **{"input.carry": ["id"]})
    return answers(tmp_path / "expected")
