"""How widely a token spreads its attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bertbatch.statistics.statistic import Statistic

if TYPE_CHECKING:
    from torch import Tensor

    from bertbatch.statistics.tile import Queries, Tile


class Entropy(Statistic):
    """H_i = −Σ_j p_ij ln p_ij, in nats: 0 for one key only, ln n for all n alike.

    Clark et al. 2019, https://arxiv.org/abs/1906.04341, section 3.3. With t_ij, the logit in
    base 2 less the row's largest, and ℓ_i = Σ_j 2^t_ij, it is ln ℓ_i − ln 2 Σ_j 2^t_ij t_ij / ℓ_i.
    """

    shared = "entropy"

    def collect(self, tile: Tile, out: Tensor) -> None:
        tile.sum(tile.logits, out)

    def of_queries(self, queries: Queries) -> Tensor:
        spread = queries.total.log() - queries.collected(self.shared) * math.log(2)
        return spread.clamp_(min=0)  # rounding may give less

    def most(self, max_length: int) -> float:
        return math.log(max_length)
