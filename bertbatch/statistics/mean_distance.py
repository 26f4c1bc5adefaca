"""How far away the attended tokens are."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from bertbatch.statistics.statistic import BLOCKS, Statistic

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bertbatch.statistics.tile import Queries, Sequences, Tile


class MeanDistance(Statistic):
    """Σ_j p_ij |i − j|, in tokens, special tokens and both segments counted.

    Vig & Belinkov 2019, https://arxiv.org/abs/1906.04284. Tokens are cut into blocks, b from
    its token s_b on. Of a block before i's own the sum is (i − s_b) M_b − F_b, where
    M_b = Σ_j∈b p_ij and F_b = Σ_j∈b p_ij (j − s_b) are linear in the weights, and of one after
    it the negative. Only within i's own block are distances summed token by token.
    """

    shared = "distance"

    def keys(self, sequences: Sequences) -> Tensor:
        import torch

        place = sequences.places
        size = len(place) // BLOCKS
        inside = (place[:, None] // size == place[:BLOCKS]).float()
        columns = torch.cat([inside, inside * (place % size)[:, None]], -1)
        return columns.expand(len(sequences.lengths), -1, -1)

    def collect(self, tile: Tile, out: Tensor) -> None:
        size = tile.exponents.shape[2] // BLOCKS
        tile.sum_within_blocks(_distances(size, tile.exponents.device), out)

    def of_queries(self, queries: Queries) -> Tensor:
        place = queries.sequences.places
        size = len(place) // BLOCKS
        sums = queries.mass(self.name)
        mass, moment = sums[..., :BLOCKS], sums[..., BLOCKS:]
        side = (place[:, None] // size - place[:BLOCKS]).sign()
        far = side * ((place[:, None] - size * place[:BLOCKS]) * mass - moment)
        return queries.collected(self.shared) + far.sum(-1)

    def most(self, max_length: int) -> float:
        return float(max_length)


@lru_cache(maxsize=256)
def _distances(size: int, device: torch.device) -> Tensor:
    import torch

    place = torch.arange(size, device=device, dtype=torch.float32)
    return (place[:, None] - place).abs_()
