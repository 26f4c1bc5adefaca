"""The attention that goes to a neighbour of the query token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertbatch.statistics.statistic import Statistic

if TYPE_CHECKING:
    from torch import Tensor

    from bertbatch.statistics.tile import Queries, Sequences


class Neighbour(Statistic):
    """p_ij for j = i + offset, over the query tokens i that have such a key.

    Clark et al. 2019, https://arxiv.org/abs/1906.04341, section 3.1, who divide by all.
    """

    beside = True
    offset = 0

    def of_queries(self, queries: Queries) -> Tensor:
        return queries.beside(self.offset)

    def counted(self, sequences: Sequences) -> Tensor:
        return sequences.counted & sequences.has_neighbour(self.offset)
