"""What a statistic of attention is.

p_ij is the share of query token i's attention that goes to key token j: the softmax over the
row's own tokens j, never padding. A statistic has a value for each query token, and a text's value
is the mean over the query tokens that count; or, if `over_keys`, a value from what key tokens
receive.

Shapes: R rows of a group, H heads, S tokens of the group's longest row, N = R·H.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bertbatch.registry import STATISTICS

if TYPE_CHECKING:
    from torch import Tensor

    from bertbatch.statistics.tile import Queries, Sequences, Tile


BLOCKS = 4  # in a sequence: a tile has the queries of one or more whole blocks


class Statistic:
    """What one statistic needs of the attention weights, and its value.

    `name` is its key in `STATISTICS`. `shared` names the sum of `collect`, so that two statistics
    can use the same one; `beside`: it uses neighbours; `over_keys`: it has `of_keys`. `needs` names
    the kind of token that a model's tokenizer must have.
    """

    shared = ""
    needs: str | None = None
    over_keys = False
    beside = False

    def __init__(self, name: str):
        self.name = name

    def keys(self, sequences: Sequences) -> Tensor | None:
        """Weights w of the key tokens [R, S, c], for `queries.mass(name)`: Σ_j p_ij w_jc."""
        return None

    def collect(self, tile: Tile, out: Tensor) -> None:
        """Puts a sum over keys for each of the tile's queries into `out`; see `shared`."""
        raise NotImplementedError

    def of_queries(self, queries: Queries) -> Tensor:
        """Each query token's value [R, H, S]; undefined for tokens that do not count."""
        raise NotImplementedError

    def of_keys(self, received: Tensor, sequences: Sequences) -> Tensor:
        """The text's value [R, H], from the mean share that each key token receives [R, H, S]."""
        raise NotImplementedError

    def counted(self, sequences: Sequences) -> Tensor:
        """Which query tokens count, bool [R, S]."""
        return sequences.counted

    def most(self, max_length: int) -> float:
        """The largest possible value, where histograms end; the least is zero."""
        return 1.0


def make_statistics(names: Sequence[str]) -> list[Statistic]:
    """The statistics of these names, keys of `STATISTICS`."""
    return [STATISTICS[name].load()(name) for name in names]
