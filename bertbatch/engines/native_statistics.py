"""Attention statistics on CPUs in a single pass, by the project's own kernels."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertbatch.engines.one_pass import KINDS_OF_TOKENS, SUMS, OnePass
from bertbatch.model.token_kinds import TokenClasses
from bertbatch.model.tokens import Batch
from bertbatch.native.kernels import Kernels, Watch, find_kernels
from bertbatch.statistics.statistic import Statistic

KINDS = len(KINDS_OF_TOKENS) + 1
BEYOND = 64  # tokens that the kernels may read past the last


class NativeStatistics:
    """Makes layouts that compute some statistics. Raises ValueError if it cannot all of them."""

    def __init__(self, statistics: Sequence[Statistic], classes: TokenClasses, counts_all: bool):
        kernels = find_kernels()
        if kernels is None:
            raise ValueError("there are no kernels for this processor")
        self._kernels = kernels
        self._sums = OnePass(statistics, classes, counts_all)

    def layout(self, batch: Batch, total: int, device: str) -> "NativeStatisticsLayout":
        """The layout of a batch, packed into `total` tokens."""
        sums, lengths = self._sums, batch.lengths
        tokens = len(batch.ids)
        kinds = np.zeros((KINDS, total + BEYOND), np.float32)
        kinds[:, :tokens] = sums.kinds(batch)
        counted = np.zeros(total, np.float32)
        counts_as_query = sums.counted(batch)
        counted[:tokens] = counts_as_query
        counts = sums.counts(batch, counts_as_query)
        bounds, seconds = np.append(0, np.cumsum(lengths)), batch.pair_starts
        if tokens < total:  # what fills the batch up is one more sequence
            bounds, seconds = np.append(bounds, total), np.append(seconds, total - tokens)
        return NativeStatisticsLayout(
            kernels=self._kernels,
            bounds=bounds.astype(np.int64),
            kinds=kinds,
            counted=counted,
            seconds=seconds.astype(np.int64),
            over_keys=sums.over_keys,
            places=torch.from_numpy(sums.places),
            factors=torch.from_numpy(sums.factors(counts, lengths)),
            counts=torch.from_numpy(counts),
        )


@dataclass(frozen=True)
class NativeStatisticsLayout:
    """The layout of one batch, for one forward pass."""

    kernels: Kernels
    bounds: np.ndarray
    kinds: np.ndarray
    counted: np.ndarray
    seconds: np.ndarray
    over_keys: bool
    places: Tensor
    factors: Tensor
    counts: Tensor
    _layers: list[Tensor] = field(default_factory=list)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float | None,
        reach: int | None = None,
        bias: Any = None,
    ) -> Tensor:
        """Attention [total, H, D]. Raises ValueError if there is no kernel for such heads."""
        if reach is not None or bias is not None:
            raise ValueError("there is no kernel for attention to near tokens, or by distances")
        _, heads, size = query.shape
        scale = size**-0.5 if scale is None else scale
        if scale <= 0 or not self.kernels.has_attention(size, query.dtype):
            raise ValueError(f"there is no kernel for heads of {size} in {query.dtype}")
        sums = torch.empty(len(self.bounds) - 1, heads, SUMS)
        watch = Watch(self.kinds, self.counted, self.seconds, self.over_keys, sums)
        out = self.kernels.attention(query, key, value, self.bounds, scale, watch=watch)
        values = sums[: len(self.factors), :, self.places].mT
        self._layers.append(values.clamp(min=0) * self.factors[..., None])
        return out

    def statistics(self) -> tuple[Tensor, Tensor]:
        return torch.cat(self._layers, 2), self.counts
