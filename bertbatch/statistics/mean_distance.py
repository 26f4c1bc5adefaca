"""How far away a token looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertbatch.statistics.statistic import Statistic

if TYPE_CHECKING:
    from torch import Tensor

    from bertbatch.statistics.views import Queries, Tile


class MeanDistance(Statistic):
    """Σ_j p_ij |i − j|, in tokens, special tokens and both segments counted.

    Vig & Belinkov 2019, https://arxiv.org/abs/1906.04284.
    """

    shared = "distance"

    def collect(self, tile: Tile) -> Tensor:
        return tile.weighted(tile.distances())

    def of_queries(self, queries: Queries) -> Tensor:
        return queries.collected(self.shared) / queries.total

    def most(self, max_length: int) -> float:
        return float(max_length)
