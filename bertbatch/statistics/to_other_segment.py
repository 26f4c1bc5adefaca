"""How much attention crosses from one text of a pair to the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertbatch.statistics.statistic import Statistic

if TYPE_CHECKING:
    from torch import Tensor

    from bertbatch.statistics.tile import Queries, Sequences


class ToOtherSegment(Statistic):
    """Σ_j p_ij over the keys j of the other segment; undefined for a single text.

    The first segment ends with its separator, as BERT counts.
    """

    def keys(self, sequences: Sequences) -> Tensor:
        return sequences.segments

    def of_queries(self, queries: Queries) -> Tensor:
        own = queries.sequences.segments[:, None]
        return (queries.mass(self.name) * (1 - own)).sum(-1)

    def counted(self, sequences: Sequences) -> Tensor:
        return sequences.counted & sequences.is_pair[:, None]
