"""How much attention goes to the most attended key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertbatch.statistics.statistic import Statistic

if TYPE_CHECKING:
    from torch import Tensor

    from bertbatch.statistics.tile import Queries


class MaxWeight(Statistic):
    """max_j p_ij = 1 / ℓ_i, as the largest exponent is 2⁰.

    The mean over tokens is a head's confidence in Voita et al. 2019,
    https://arxiv.org/abs/1905.09418, who leave out the end-of-sentence token.
    """

    def of_queries(self, queries: Queries) -> Tensor:
        return queries.total.reciprocal()
