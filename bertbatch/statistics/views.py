"""What a statistic sees of attention: the rows' tokens, a tile of weights, what tiles came to.

The engine makes these (`engines/watched.py`). Shapes: R rows of a group, H heads, S tokens of
its longest row; of a tile, n heads of any row and q queries.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sequences:
    """The rows of a group: float32 kinds of token, bool masks, all [R, S] but `lengths` [R].

    `second_starts` [R]: where the second text of a pair starts; the length for a single text.
    """

    lengths: Tensor
    second_starts: Tensor
    real: Tensor
    counted: Tensor
    kinds: dict[str, Tensor]

    def of_kind(self, kind: str) -> Tensor:
        """1 for tokens of a kind, else 0."""
        return self.kinds[kind]

    @cached_property
    def segments(self) -> Tensor:
        """1 for the segment that a token is in, else 0: [R, S, 2]"""
        place = torch.arange(self.real.shape[1], device=self.real.device)
        second = place >= self.second_starts[:, None]
        return torch.stack([self.real & ~second, self.real & second], -1).float()

    @property
    def is_pair(self) -> Tensor:
        return self.second_starts < self.lengths

    def has_neighbour(self, offset: int) -> Tensor:
        """Whether a token has one `offset` further on."""
        place = torch.arange(self.real.shape[1], device=self.real.device) + offset
        return (place >= 0) & (place < self.lengths[:, None])


@dataclass
class Tile:
    """Queries `first` to `stop` [q] of some heads [n], with all their keys [S].

    `logits` [n, q, S] are scaled scores less the row's largest, `exponents` their exp.
    """

    logits: Tensor
    exponents: Tensor
    first: int
    stop: int
    _scratch: Tensor
    _distances: Tensor

    def weighted(self, factors: Tensor) -> Tensor:
        """Σ_j exponents · factors, [n, q]"""
        summed: Tensor = torch.mul(self.exponents, factors, out=self._scratch).sum(-1)
        return summed

    def lengths_of_exponents(self) -> Tensor:
        """√(Σ_j exponents²), [n, q]"""
        norms: Tensor = torch.linalg.vector_norm(self.exponents, 2, dim=-1)
        return norms

    def distances(self) -> Tensor:
        """|i − j|, [q, S]"""
        return self._distances[self.first : self.stop]

    def diagonal(self, offset: int) -> Tensor:
        """The exponent of the key `offset` after each query, zero where there is none: [n, q]"""
        n, q, keys = self.exponents.shape
        out = self.exponents.new_zeros(n, q)
        start = max(-(self.first + offset), 0)
        stop = min(keys - self.first - offset, q)
        if start < stop:
            rows = self.exponents[:, start:stop]
            out[:, start:stop] = rows.diagonal(self.first + start + offset, 1, 2)
        return out


@dataclass
class Queries:
    """What the tiles of a group's heads came to, for every query [R, H, S].

    `total` is Σ_j exponents.
    """

    sequences: Sequences
    total: Tensor
    _masses: Tensor
    _columns: dict[str, slice]
    _collected: dict[str, Tensor]

    def mass(self, name: str) -> Tensor:
        """Σ_j p_ij w_jc for a statistic's own key weights w: [R, H, S, c]"""
        return self._masses[..., self._columns[name]] / self.total[..., None]

    def collected(self, name: str) -> Tensor:
        return self._collected[name]
