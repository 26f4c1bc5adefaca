"""Attention statistics on GPUs in a single pass, by the kernels of `fused_kernels.py`.

Imports Triton, which comes with torch for CUDA.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton import next_power_of_2

from bertbatch.engines import fused_kernels as kernels
from bertbatch.engines.fused_blocks import SIZES, Launch, alike, blocks_of
from bertbatch.engines.one_pass import OnePass
from bertbatch.engines.packing import to_device
from bertbatch.engines.tiled_attention import LN_2
from bertbatch.model.token_kinds import TokenClasses
from bertbatch.model.tokens import Batch
from bertbatch.statistics.statistic import Statistic


def launch(size: int, dtype: torch.dtype, capability: tuple[int, int]) -> Launch:
    """For heads of this size. Chosen so that nothing is spilled and shared memory is enough.

    A block has 16 rows a warp, or a row would be split among warps.
    """
    new = capability >= (9, 0)
    if dtype == torch.float32:
        rows = 32 if size > 32 else 64
        return Launch(rows, 32, 4, 1, "tf32x3")
    if size <= 32 or (new and size == 64):
        return Launch(64, 64, 4, 1, "ieee")
    return Launch(64, 32, 4, 2, "ieee")


class FusedStatistics:
    """Makes layouts that compute some statistics. Raises ValueError if it cannot all of them."""

    def __init__(self, statistics: Sequence[Statistic], classes: TokenClasses, counts_all: bool):
        self._sums = OnePass(statistics, classes, counts_all)

    def layout(self, batch: Batch, total: int, device: str) -> "FusedLayout":
        """The layout of a batch, packed into `total` tokens."""
        sums, lengths = self._sums, batch.lengths
        kinds = np.zeros((len(batch.ids), kernels.KINDS.value), np.float32)
        for column, of_kind in enumerate(sums.kinds(batch)):
            kinds[:, column] = of_kind
        counted = sums.counted(batch)
        counts = sums.counts(batch, counted)
        return FusedLayout(
            lengths=lengths,
            pair_starts=batch.pair_starts,
            over_keys=sums.over_keys,
            total=total,
            kinds=to_device(kinds, device),
            counted=to_device(counted.astype(np.int8), device),
            counts=to_device(counts, device),
            places=to_device(sums.places.astype(np.int32), device),
            factors=to_device(sums.factors(counts, lengths), device),
            device=device,
        )


@dataclass
class FusedLayout:
    """The layout of one batch, for one forward pass."""

    lengths: np.ndarray
    pair_starts: np.ndarray
    over_keys: bool
    total: int
    kinds: Tensor
    counted: Tensor
    counts: Tensor
    places: Tensor
    factors: Tensor
    device: str
    _plan: tuple[Launch, Tensor, Tensor] | None = None
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
        _, heads, size = query.shape
        if size not in SIZES:
            raise ValueError(f"there is no kernel for heads of {size}")
        if reach is not None or bias is not None:
            raise ValueError("there is no kernel for attention to near tokens, or by distances")
        query, key, value = alike(query, key, value)
        if not self._plan:  # in the first layer
            self.kinds = self.kinds.to(value.dtype)
            self._plan = self._blocks(query, size)
        how, blocks, ends = self._plan
        scale = (size**-0.5 if scale is None else scale) / LN_2
        # Tokens that fill the batch up are in no sequence, and get no answer.
        full = self.total == self.lengths.sum()
        out = (query.new_empty if full else query.new_zeros)(self.total, heads, size)
        normalizer = query.new_empty(self.total, heads, dtype=torch.float32)
        sums = query.new_empty(len(blocks), heads, kernels.SUMS.value, dtype=torch.float32)
        grid = (len(blocks) * heads,)
        shape = {"HEADS": heads, "SIZE": size, "ROWS": how.rows, "KEYS": how.keys}
        run = {"PRECISION": how.precision, "num_warps": how.warps, "num_stages": how.stages}
        strided = query.stride(0), scale
        kernels.attend[grid](
            query, key, value, self.kinds, self.counted, blocks, out, normalizer, sums, *strided,
            **shape, **run,
        )  # fmt: skip
        if self.over_keys:
            kernels.receive[grid](
                query, key, normalizer, self.counted, blocks, sums, *strided, **shape, **run
            )
        self._layers.append(self._fold(sums, ends, heads))
        return out

    def _fold(self, sums: Tensor, ends: Tensor, heads: int) -> Tensor:
        rows, count = self.factors.shape
        values = sums.new_empty(rows, count, heads)
        kernels.fold[(rows,)](
            sums, ends, self.places, self.factors, values, HEADS=heads,
            HEADS_2=next_power_of_2(heads), STATISTICS=count, STATISTICS_2=next_power_of_2(count),
        )  # fmt: skip
        return values

    def _blocks(self, query: Tensor, size: int) -> tuple[Launch, Tensor, Tensor]:
        """How kernels run, the blocks int32 [blocks, 4], and their ends by sequence."""
        on_gpu = query.device.type == "cuda"
        capability = torch.cuda.get_device_capability() if on_gpu else (9, 0)
        how = launch(size, query.dtype, capability)
        blocks, ends = blocks_of(self.lengths, self.pair_starts, how.rows)
        return how, to_device(blocks, self.device), to_device(ends, self.device)

    def statistics(self) -> tuple[Tensor, Tensor]:
        return torch.cat(self._layers, 2), self.counts
