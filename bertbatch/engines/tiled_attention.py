"""Attention computed tile by tile, with statistics of its weights.

A tile holds the weights of a block of queries of some heads with all their keys. It is small
enough for a core's cache, so passing over the weights a few more times costs little. Scores,
exponents and sums are float32 whatever the model's precision. Statistics that are linear in the
weights, with a factor for each key, come out of the same matrix product as further columns of V.

Shapes: R rows of a group, H heads, S tokens of its longest row, D head size, N = R·H, C further
columns, K statistics.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bertbatch.statistics.statistic import BLOCKS, Statistic
from bertbatch.statistics.tile import Queries, Sequences, Tile

# Weights in a tile, for each thread of a CPU: two buffers of this size fit its cache.
CPU_TILE = 3 << 16
CUDA_TILE = 1 << 26
# A masked key's score. With −∞, the product with a weight of zero would be NaN.
NEVER = -1e30
LN_2 = math.log(2)
LINE = 16  # float32 values in a cache line, to which tiles are aligned


@dataclass
class GroupStats:
    """The statistics of a group of rows.

    `columns` [R, S, C] are the further columns of V, `columns_of` those of each statistic by name.
    `counts` [R, K] int32: query tokens behind each value; `shares` [K, R, S, 1]: the weight of
    each query token in a mean. `layers` gets the values [R, K, H] of each layer.
    """

    sequences: Sequences
    padded: bool
    columns: Tensor
    columns_of: dict[str, slice]
    counts: Tensor
    shares: Tensor
    layers: list[Tensor] = field(default_factory=list)


class TiledAttention:
    """Attention of groups of rows. Not thread-safe: buffers are shared."""

    def __init__(self, statistics: Sequence[Statistic], threads: int):
        self._statistics = statistics
        self._threads = threads
        self._buffers: dict[str, Tensor] = {}
        by_name = {s.shared: s for s in statistics if s.shared}
        # Entropy first: it needs the logits, which the first sum overwrites.
        self._collecting = sorted(by_name.values(), key=lambda s: s.shared != "entropy")
        self._beside = any(s.beside for s in statistics)
        self._over_keys = any(s.over_keys for s in statistics)

    def attend(
        self,
        group: GroupStats,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float | None,
        reach: int | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Attention [R, H, S, D] of query, key and value of that shape.

        Keys further from a query than `reach` are not attended. `bias` [R or 1, H, S, S] is added
        to the scores. Adds the layer's statistics to the
        group.
        """
        rows, heads, length, size = query.shape
        scale = size**-0.5 if scale is None else scale
        q, k, v = self._extended(group, query, key, value)
        if bias is not None:
            every = bias.expand(rows, -1, -1, -1).reshape(rows * heads, length, length)
        out = self._buffer("out", v.shape, v)
        collected = {
            s.shared: self._buffer(s.shared, (rows * heads, length), v) for s in self._collecting
        }
        beside = self._buffer("beside", (rows * heads, length, 3 if self._beside else 0), v)
        received = _Received(group.sequences, heads) if self._over_keys else None
        for of_heads, of_queries in self._tiles(rows * heads, length, q.device.type):
            q_, k_, v_, out_ = (x[of_heads] for x in (q, k, v, out))
            if of_queries.stop - of_queries.start < length:
                q_, out_ = q_[:, of_queries], out_[:, of_queries]
            logits = self._buffer("logits", (len(q_), q_.shape[1], length), v)
            exponents, bands = self._exponents(logits, of_queries.start)
            # In base 2: torch.exp is up to a hundred times slower for results near zero.
            torch.baddbmm(logits, q_, k_.mT, beta=0, alpha=scale / LN_2, out=logits)
            if bias is not None:
                logits.add_(every[of_heads, of_queries], alpha=1 / LN_2)
            if reach is not None and reach < length - 1:
                logits.masked_fill_(_far(of_queries, length, reach, logits.device), NEVER)
            logits.sub_(logits.amax(-1, keepdim=True))
            torch.exp2(logits, out=exponents)
            torch.bmm(exponents, v_, out=out_)
            tile = Tile(logits, exponents, of_queries.start, of_queries.stop)
            for statistic in self._collecting:
                statistic.collect(tile, collected[statistic.shared][of_heads, of_queries])
            if self._beside:
                beside[of_heads, of_queries] = bands
            if received:
                received.add(of_heads, of_queries, exponents, out_[..., size])
        whole = out.view(rows, heads, length, -1)
        total = whole[..., size]
        queries = Queries(
            group.sequences,
            total,
            whole[..., size:],
            group.columns_of,
            {name: x.view(rows, heads, length) for name, x in collected.items()},
            beside.view(rows, heads, length, -1),
        )
        shares = received.shares.view(rows, heads, length) if received else None
        group.layers.append(self._values(group, queries, shares))
        answer = value.new_empty(rows, length, heads, size).transpose(1, 2)  # as the model uses it
        torch.div(whole[..., :size], total[..., None], out=answer)
        return answer

    def _values(self, group: GroupStats, queries: Queries, received: Tensor | None) -> Tensor:
        """Each statistic's value for each row and head, [R, K, H]."""
        values = [
            s.of_keys(received, group.sequences)
            if received is not None and s.over_keys
            # Set to zero first: a query without a neighbour may have NaN there.
            else torch.matmul(s.of_queries(queries).masked_fill(shares.mT == 0, 0), shares)[..., 0]
            for s, shares in zip(self._statistics, group.shares, strict=True)
        ]
        return torch.stack(values, 1)

    def _tiles(self, count: int, length: int, device: str) -> list[tuple[slice, slice]]:
        """The heads and queries of each tile: several whole heads, or a part of one."""
        limit = CUDA_TILE if device == "cuda" else CPU_TILE * self._threads
        together = limit // (length * length)
        if together:
            whole = slice(0, length)
            return [(slice(i, min(i + together, count)), whole) for i in range(0, count, together)]
        block = length // BLOCKS
        step = max(limit // length // block, 1) * block
        return [
            (slice(i, i + 1), slice(first, min(first + step, length)))
            for i in range(count)
            for first in range(0, length, step)
        ]

    def _exponents(self, logits: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """A buffer for exponents, shaped as logits [n, q, S]; its values beside the diagonal.

        The second is a view [n, q, 3]. A query's neighbours are adjacent, those of the next query
        S + 1 further on. The first query has none before it and the last none after it, so the
        buffer has a margin at each end.
        """
        n, q, keys = logits.shape
        whole = self._buffer("exponents", (logits.numel() + 2 * LINE,), logits)
        start = whole.storage_offset() + LINE
        bands = whole.as_strided((n, q, 3), (q * keys, keys + 1, 1), start + first - 1)
        return whole[LINE:-LINE].view(logits.shape), bands

    def _extended(
        self, group: GroupStats, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key [N, S, D or D + 1] and value [N, S, D + C] in float32.

        The mask is one more component: 1 for each query, a bias for each key.
        """
        rows, heads, length, size = query.shape
        shape = (rows, heads, length, size + group.padded)
        q, k = self._buffer("query", shape, query), self._buffer("key", shape, query)
        q[..., :size], k[..., :size] = query, key
        if group.padded:
            real = group.sequences.real
            bias = torch.zeros_like(real, dtype=k.dtype).masked_fill_(~real, NEVER)
            q[..., size], k[..., size] = 1, bias[:, None]
        v = self._buffer("value", (*shape[:3], size + group.columns.shape[-1]), query)
        v[..., :size], v[..., size:] = value, group.columns[:, None]
        q, k, v = (x.view(rows * heads, length, -1) for x in (q, k, v))
        return q, k, v

    def _buffer(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """A float32 tensor that is reused: fresh memory costs more than the work in it."""
        need = math.prod(shape)
        kept = self._buffers.get(name)
        if kept is None or len(kept) < need or kept.device != like.device:
            kept = self._buffers[name] = like.new_zeros(need, dtype=torch.float32)
        return kept[:need].view(shape)


def _far(queries: slice, length: int, reach: int, device: torch.device) -> Tensor:
    """Which keys are too far from these queries: bool [queries, length]."""
    place = torch.arange(length, device=device)
    return (place[queries, None] - place).abs() > reach


class _Received:
    """What each key token receives from an average counted query: `shares` [N, 1, S]."""

    def __init__(self, sequences: Sequences, heads: int):
        counted = sequences.counted.float()
        share = counted / counted.sum(-1, keepdim=True).clamp(min=1)
        self._share = share.repeat_interleave(heads, 0)
        self.shares = torch.zeros_like(self._share)[:, None]

    def add(self, of_heads: slice, of_queries: slice, exponents: Tensor, total: Tensor) -> None:
        each = self._share[of_heads, of_queries] / total
        self.shares[of_heads].baddbmm_(each[:, None], exponents)
