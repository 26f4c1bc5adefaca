"""Attention statistics, collected during the forward pass.

`AttentionStats` makes the layout of a packed batch that computes them as a side result of
attention. `tiled_attention.py` computes the weights, `statistics/` has the formulas. Where there
are kernels, `fused_statistics.py` (GPUs) and `native_statistics.py` (CPUs) do both in one pass.

Shapes: R rows of a group, H heads, S tokens of its longest row, D head size, C further columns,
K statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from bertbatch.engines.packing import Bias, ByLength, Group, by_length, to_device
from bertbatch.engines.tiled_attention import GroupStats, TiledAttention
from bertbatch.model.token_kinds import TokenClasses
from bertbatch.model.tokens import Batch
from bertbatch.statistics.statistic import Statistic
from bertbatch.statistics.tile import Sequences

if TYPE_CHECKING:
    from bertbatch.engines.fused_statistics import FusedStatistics
    from bertbatch.engines.native_statistics import NativeStatistics


class StatsLayout(Protocol):
    """A layout as in `packing.py` that has statistics after the forward pass."""

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float | None,
        reach: int | None = None,
        bias: Bias | None = None,
    ) -> Tensor:
        """Attention [total, H, D] of query, key and value of the same shape.

        `reach` and `bias` as in `ByLength.attend`.
        """

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Values float32 [rows, K, layers·H], and the tokens behind each, int32 [rows, K]."""


class AttentionStats:
    """Makes layouts that compute some statistics.

    `queries`: "all" tokens count, or only "content". One batch at a time: buffers are shared.
    """

    def __init__(
        self, statistics: Sequence[Statistic], classes: TokenClasses, queries: str, threads: int
    ):
        self._statistics = list(statistics)
        self._classes = classes
        self._all = queries == "all"
        self._attention = TiledAttention(self._statistics, threads)
        self._one_pass: FusedStatistics | NativeStatistics | None = None

    def use_one_pass(self, device: str) -> None:
        """From here on. Raises ImportError without Triton on a GPU, ValueError if it cannot."""
        given = self._statistics, self._classes, self._all
        if device == "cuda":
            from bertbatch.engines.fused_statistics import FusedStatistics

            self._one_pass = FusedStatistics(*given)
        else:
            from bertbatch.engines.native_statistics import NativeStatistics

            self._one_pass = NativeStatistics(*given)

    def use_tiles(self) -> None:
        self._one_pass = None

    def layout(self, batch: Batch, total: int, device: str) -> StatsLayout:
        """The layout of a batch, packed into `total` tokens."""
        if self._one_pass:
            return self._one_pass.layout(batch, total, device)
        plain = by_length(batch.lengths, total, device)
        starts = np.cumsum(batch.lengths) - batch.lengths
        groups = []
        row = 0
        for group in plain.groups:
            rows = slice(row, row + group.rows)
            groups.append(self._group(group, batch, starts[rows], rows, device))
            row += group.rows
        return TiledLayout(plain, groups, self._attention)

    def _group(
        self, group: Group, batch: Batch, starts: np.ndarray, rows: slice, device: str
    ) -> GroupStats:
        lengths = batch.lengths[rows]
        places = np.arange(group.length)
        real = places < lengths[:, None]
        tokens = batch.ids[np.where(real, starts[:, None] + places, starts[:, None])]
        classes = self._classes
        # Clipped: a probe may have ids that the tokenizer's vocabulary lacks.
        kinds = {k: known.take(tokens, mode="clip") & real for k, known in classes.kinds.items()}
        counted = real if self._all else real & ~classes.special.take(tokens, mode="clip")
        sequences = Sequences(
            lengths=to_device(lengths.astype(np.float32), device),
            pair_starts=to_device(batch.pair_starts[rows].astype(np.float32), device),
            real=to_device(real, device),
            counted=to_device(counted, device),
            kinds={kind: to_device(of.astype(np.float32), device) for kind, of in kinds.items()},
        )
        columns, columns_of = [sequences.real.float()[..., None]], {}
        stop = 1
        for statistic in self._statistics:
            weights = statistic.keys(sequences)
            if weights is not None:
                columns.append(weights)
                columns_of[statistic.name] = slice(stop, stop := stop + weights.shape[-1])
        each = torch.stack([s.counted(sequences) for s in self._statistics])
        counts = each.sum(-1, dtype=torch.int32)
        return GroupStats(
            sequences=sequences,
            padded=group.mask is not None,
            columns=torch.cat(columns, -1),
            columns_of=columns_of,
            counts=counts.T,
            shares=(each / counts.clamp(min=1)[..., None])[..., None],
        )


@dataclass(frozen=True)
class TiledLayout:
    """A layout like `ByLength`."""

    plain: ByLength
    groups: list[GroupStats]
    attention: TiledAttention

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float | None,
        reach: int | None = None,
        bias: Bias | None = None,
    ) -> Tensor:
        def dense(group: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            added = None if bias is None else bias(q, k)
            return self.attention.attend(self.groups[group], q, k, v, scale, reach, added)

        return self.plain.through(query, key, value, dense)

    def statistics(self) -> tuple[Tensor, Tensor]:
        values = [torch.stack(group.layers, 2).flatten(2) for group in self.groups]
        return torch.cat(values), torch.cat([group.counts for group in self.groups])
