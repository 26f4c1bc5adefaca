"""The attention that goes to one kind of key token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertbatch.statistics.statistic import Statistic

if TYPE_CHECKING:
    from torch import Tensor

    from bertbatch.statistics.tile import Queries, Sequences


class Mass(Statistic):
    """Σ_j p_ij over the keys j of one kind; see `token_kinds.py` for the kinds.

    Clark et al. 2019, https://arxiv.org/abs/1906.04341, section 3.2.
    """

    kind = ""

    def keys(self, sequences: Sequences) -> Tensor:
        return sequences.of_kind(self.kind)[..., None]

    def of_queries(self, queries: Queries) -> Tensor:
        return queries.mass(self.name)[..., 0]
