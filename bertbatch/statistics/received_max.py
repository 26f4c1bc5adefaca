"""The attention that the most attended token receives: whether a head has a sink."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertbatch.statistics.statistic import Statistic

if TYPE_CHECKING:
    from torch import Tensor

    from bertbatch.statistics.tile import Sequences


class ReceivedMax(Statistic):
    """max_j c_j over all tokens j, where c_j = mean_i p_ij over the counted queries i.

    An attention sink is a token of which this is large: Gu et al. 2024,
    https://arxiv.org/abs/2410.10781.
    """

    over_keys = True

    def of_keys(self, received: Tensor, sequences: Sequences) -> Tensor:
        return received.amax(-1)
