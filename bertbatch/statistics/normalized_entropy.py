"""Entropy that is comparable between texts of different lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertbatch.statistics.entropy import Entropy

if TYPE_CHECKING:
    from torch import Tensor

    from bertbatch.statistics.tile import Queries, Sequences


class NormalizedEntropy(Entropy):
    """H_i / ln n for n keys: 0 for one key only, 1 for all alike; undefined for n = 1.

    Normalized entropy, or efficiency: Shannon 1948, section 7 ("relative entropy").
    """

    def of_queries(self, queries: Queries) -> Tensor:
        keys = queries.sequences.lengths.clamp(min=2).log()
        return super().of_queries(queries) / keys[:, None, None]

    def counted(self, sequences: Sequences) -> Tensor:
        return sequences.counted & (sequences.lengths > 1)[:, None]

    def most(self, max_length: int) -> float:
        return 1.0
