"""The attention that an average counted token receives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertbatch.statistics.statistic import Statistic

if TYPE_CHECKING:
    from torch import Tensor

    from bertbatch.statistics.tile import Sequences


class ReceivedMean(Statistic):
    """The mean over the counted tokens j of c_j = mean_i p_ij, over the counted queries i.

    Over all tokens it is 1/n, whatever the head does; without special tokens it tells how much
    attention stays on the text. Column means: Gu et al. 2024,
    https://arxiv.org/abs/2410.10781.
    """

    over_keys = True

    def of_keys(self, received: Tensor, sequences: Sequences) -> Tensor:
        counted = sequences.counted.to(received.dtype)[:, None]
        return (received * counted).sum(-1) / counted.sum(-1).clamp(min=1)
