"""The attention weights of a tile, for statistics.

The engine also gives them the rows' tokens (`Sequences`) and the sums over all tiles (`Queries`);
it makes all three in `engines/tiled_attention.py`. Shapes: R rows of a group, H heads, S tokens
of its longest row; in a tile n heads of any rows, and q queries.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sequences:
    """The rows of a group: kinds of token as float32, bool masks, all [R, S] but `lengths` [R].

    `pair_starts` [R]: where the second text of a pair starts; the length for a single text.
    """

    lengths: Tensor
    pair_starts: Tensor
    real: Tensor
    counted: Tensor
    kinds: dict[str, Tensor]

    def of_kind(self, kind: str) -> Tensor:
        """1 for tokens of a kind, else 0."""
        return self.kinds[kind]

    @cached_property
    def segments(self) -> Tensor:
        """1 for the segment that a token is in, else 0: [R, S, 2]"""
        second = self.places >= self.pair_starts[:, None]
        return torch.stack([self.real & ~second, self.real & second], -1).float()

    @cached_property
    def places(self) -> Tensor:
        """0 to S − 1, float32 [S]"""
        return torch.arange(self.real.shape[1], device=self.real.device, dtype=torch.float32)

    @property
    def is_pair(self) -> Tensor:
        return self.pair_starts < self.lengths

    def has_neighbour(self, offset: int) -> Tensor:
        """Whether a token has one `offset` further on."""
        place = self.places + offset
        return (place >= 0) & (place < self.lengths[:, None])


@dataclass
class Tile:
    """The weights of queries `first` to `stop` [q] of some heads [n], with all their keys [S].

    `exponents` [n, q, S] are 2 to the power of `logits`, the scaled scores over ln 2 less the
    row's largest. Only the first sum can use the logits: sums overwrite them.
    """

    logits: Tensor
    exponents: Tensor
    first: int
    stop: int

    def sum(self, factors: Tensor, out: Tensor) -> None:
        """Σ_j exponents · factors into `out` [n, q]."""
        torch.mul(self.exponents, factors, out=self.logits)
        torch.sum(self.logits, -1, out=out)

    def sum_within_blocks(self, factors: Tensor, out: Tensor) -> None:
        """Σ_j exponents · factors over the keys j in each query's own block into `out` [n, q].

        `factors` [size, size] hold for the places within any block of this size.
        """
        n, queries, keys = self.exponents.shape
        size = len(factors)
        shape = (n, queries // size, size, size)
        strides = (queries * keys, (keys + 1) * size, keys, 1)
        start = self.exponents.storage_offset() + self.first
        own = self.exponents.as_strided(shape, strides, start)
        room = self.logits.view(-1)[: own.numel()].view(shape)
        torch.mul(own, factors, out=room)
        torch.sum(room, -1, out=out.view(shape[:3]))

    def norm(self, out: Tensor) -> None:
        """√(Σ_j exponents²) into `out` [n, q]."""
        torch.linalg.vector_norm(self.exponents, 2, -1, out=out)


@dataclass
class Queries:
    """The sums over all tiles of a group's heads, for every query.

    `total` [R, H, S] is Σ_j exponents.
    """

    sequences: Sequences
    total: Tensor
    _masses: Tensor
    _columns: dict[str, slice]
    _collected: dict[str, Tensor]
    _beside: Tensor

    def mass(self, name: str) -> Tensor:
        """Σ_j p_ij w_jc for a statistic's own key weights w: [R, H, S, c]"""
        return self._masses[..., self._columns[name]] / self.total[..., None]

    def collected(self, name: str) -> Tensor:
        """The sum collected under a name, for every query [R, H, S], over the total."""
        return self._collected[name] / self.total

    def beside(self, offset: int) -> Tensor:
        """p_ij for j = i + offset, of −1, 0 or 1: [R, H, S]; undefined where there is no such j."""
        return self._beside[..., offset + 1] / self.total
