"""A unit that was read, until its commit: what goes to the models, what goes past them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from bertbatch.model.spans import Spans
from bertbatch.model.tokens import Parts, Tokens
from bertbatch.units import Unit


@dataclass
class TextFacts:
    """What the commit needs to know of one model's tokens.

    Arrays have an entry for each row to score. `parts`: which sequences of tokens are each row's,
    None if each is one; `spans` are of the sequences, and `row` int64 is the row of each.
    """

    n_tokens: np.ndarray
    truncated: np.ndarray
    unknown: np.ndarray
    content: np.ndarray
    row: np.ndarray
    spans: Spans | None = None
    parts: Parts | None = None


@dataclass
class Origin:
    """Where some of a unit's rows are from, and the columns that they carry."""

    source: np.ndarray  # int32, index into the unit's spans
    row: np.ndarray  # int64, number in the source
    carried: pa.Table


@dataclass
class Repeated(Origin):
    """Rows whose answers are stored: `answers` has a row for each, `reasons` of those without."""

    answers: pa.Table
    reasons: dict[int, str]

    @property
    def answered(self) -> np.ndarray:
        """Which rows have an answer, bool [rows]."""
        answered = np.ones(len(self.row), bool)
        answered[list(self.reasons)] = False
        return answered


@dataclass
class Passthrough(Origin):
    """What of a unit need not pass the models, and goes from the reader to the commit.

    Arrays and `carried` have an entry for each row to score, `bad` one for each row that cannot
    be. `texts` has an entry for each model; models with equal tokenizers share one. `hashes` are
    of texts that are scored for other units. `selection` is that of the tokens which belong here:
    a unit that is read twice may find other answers stored.
    """

    bad: pa.Table
    left_out: int  # rows, by `input.where`
    texts: Mapping[str, TextFacts]
    repeated: Repeated | None = None
    hashes: pa.Array | None = None
    selection: int = 0


@dataclass
class Prepared:
    """A unit ready to be scored: its rows to score, each model's tokens."""

    unit: Unit
    rows: int
    tokens: Mapping[str, Tokens]
    passthrough: Passthrough
