"""The chance that two draws from a token's attention hit the same key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertbatch.statistics.statistic import Statistic

if TYPE_CHECKING:
    from torch import Tensor

    from bertbatch.statistics.tile import Queries, Tile


class Concentration(Statistic):
    """Σ_j p_ij², from 1/n for n keys alike to 1 for one only; its inverse counts the keys in use.

    The index of Simpson 1949, https://doi.org/10.1038/163688a0.
    """

    shared = "concentration"

    def collect(self, tile: Tile, out: Tensor) -> None:
        tile.norm(out)

    def of_queries(self, queries: Queries) -> Tensor:
        return queries.collected(self.shared).square_()
