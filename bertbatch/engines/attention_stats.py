"""Attention that also computes its statistics, tile by tile, in the same pass.

A tile is a block of queries of some heads with all their keys: small enough to stay in a
core's cache, so that looking at the weights a few times more costs little. Scores, exponents
and sums are float32 whatever the model's precision. What is linear in the weights with a
factor for each key comes as further columns of V, out of the same matrix product.

Shapes: R rows of a group, H heads, S tokens of its longest row, D head size, N = R·H,
C further columns, K statistics.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bertbatch.engines.devices import there
from bertbatch.engines.packing import ByLength, Group, by_length
from bertbatch.model.token_kinds import TokenClasses
from bertbatch.statistics.statistic import BLOCKS, Statistic
from bertbatch.statistics.views import Queries, Sequences, Tile

# Weights in a tile, for each thread of a CPU: two buffers that stay within its cache.
CPU_TILE = 3 << 16
CUDA_TILE = 1 << 26
# A masked key's score. Not −∞, whose product with a weight of zero is not a number.
NEVER = -1e30
LN_2 = math.log(2)
LINE = 16  # float32 in a cache line, to which tiles are aligned


@dataclass
class _Watched:
    """A group with its statistics so far: [R, K, H] of each layer; `columns` [R, S, C]."""

    group: Group
    sequences: Sequences
    columns: Tensor
    columns_of: dict[str, slice]  # by the statistic's name
    counts: Tensor  # of query tokens, int32 [R, K]
    shares: Tensor  # of each query token in a mean, [K, R, S, 1]
    layers: list[Tensor] = field(default_factory=list)


class Watch:
    """Makes layouts that compute some statistics. One batch at a time: buffers are shared."""

    def __init__(
        self, statistics: Sequence[Statistic], classes: TokenClasses, queries: str, threads: int
    ):
        self.statistics = list(statistics)
        self._classes = classes
        self._all = queries == "all"
        self._threads = threads
        self._buffers: dict[str, Tensor] = {}
        by_name = {s.shared: s for s in self.statistics if s.shared}
        # Entropy first: it needs the logits, which are gone after the first sum.
        self._collecting = sorted(by_name.values(), key=lambda s: s.shared != "entropy")
        self._beside = any(s.beside for s in self.statistics)
        self._over_keys = any(s.over_keys for s in self.statistics)

    def layout(
        self, ids: np.ndarray, lengths: np.ndarray, seconds: np.ndarray, total: int, device: str
    ) -> "Watching":
        """The layout of a packed batch: ids [total of the lengths], lengths and seconds [rows]."""
        plain = by_length(lengths, total, device)
        starts = np.cumsum(lengths) - lengths
        groups = []
        row = 0
        for group in plain.groups:
            rows = slice(row, row + group.rows)
            groups.append(
                self._group(group, ids, starts[rows], lengths[rows], seconds[rows], device)
            )
            row += group.rows
        return Watching(plain, groups, self)

    def _group(
        self,
        group: Group,
        ids: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        seconds: np.ndarray,
        device: str,
    ) -> _Watched:
        places = np.arange(group.length)
        real = places < lengths[:, None]
        tokens = ids[np.where(real, starts[:, None] + places, starts[:, None])]
        classes = self._classes
        # Clipped: the engine tries ids that the model has and the tokenizer has not.
        kinds = {k: known.take(tokens, mode="clip") & real for k, known in classes.kinds.items()}
        counted = real if self._all else real & ~classes.special.take(tokens, mode="clip")
        sequences = Sequences(
            there(lengths.astype(np.float32), device),
            there(seconds.astype(np.float32), device),
            there(real, device),
            there(counted, device),
            {kind: there(of.astype(np.float32), device) for kind, of in kinds.items()},
        )
        columns, of = [sequences.real.float()[..., None]], {}
        stop = 1
        for statistic in self.statistics:
            weights = statistic.keys(sequences)
            if weights is not None:
                columns.append(weights)
                of[statistic.name] = slice(stop, stop := stop + weights.shape[-1])
        each = torch.stack([s.counted(sequences) for s in self.statistics])
        counts = each.sum(-1, dtype=torch.int32)
        shares = (each / counts.clamp(min=1)[..., None])[..., None]
        return _Watched(group, sequences, torch.cat(columns, -1), of, counts.T, shares)

    def attend(
        self, watched: _Watched, query: Tensor, key: Tensor, value: Tensor, scale: float | None
    ) -> Tensor:
        """Attention [R, H, S, D] of query, key and value of that shape; adds a layer."""
        rows, heads, length, size = query.shape
        scale = size**-0.5 if scale is None else scale
        q, k, v = self._extended(watched, query, key, value)
        out = self._room("out", v.shape, v)
        names = {s.shared: s for s in self._collecting}
        collected = {name: self._room(name, (rows * heads, length), v) for name in names}
        beside = self._room("beside", (rows * heads, length, 3 if self._beside else 0), v)
        received = _Received(watched.sequences, heads) if self._over_keys else None
        for some, here in self._tiles(rows * heads, length, q.device.type):
            q_, k_, v_, out_ = (x[some] for x in (q, k, v, out))
            if here.stop - here.start < length:
                q_, out_ = q_[:, here], out_[:, here]
            logits = self._room("logits", (len(q_), q_.shape[1], length), v)
            exponents, bands = self._exponents(logits, here.start)
            # In base 2: torch.exp is up to a hundred times slower where it comes near zero.
            torch.baddbmm(logits, q_, k_.mT, beta=0, alpha=scale / LN_2, out=logits)
            logits.sub_(logits.amax(-1, keepdim=True))
            torch.exp2(logits, out=exponents)
            torch.bmm(exponents, v_, out=out_)
            tile = Tile(logits, exponents, here.start, here.stop)
            for name, statistic in names.items():
                statistic.collect(tile, collected[name][some, here])
            if self._beside:
                beside[some, here] = bands
            if received:
                received.add(some, here, exponents, out_[..., size])
        whole = out.view(rows, heads, length, -1)
        total = whole[..., size]
        by_query = {name: x.view(rows, heads, length) for name, x in collected.items()}
        queries = Queries(
            watched.sequences,
            total,
            whole[..., size:],
            watched.columns_of,
            by_query,
            beside.view(rows, heads, length, -1),
        )
        means = [
            s.of_keys(received.shares.view(rows, heads, length), watched.sequences)
            if received and s.over_keys
            # Zeros first: beside a row's ends there may be what is no number.
            else torch.matmul(s.of_queries(queries).masked_fill(shares.mT == 0, 0), shares)[..., 0]
            for s, shares in zip(self.statistics, watched.shares, strict=True)
        ]
        watched.layers.append(torch.stack(means, 1))
        answer = value.new_empty(rows, length, heads, size).transpose(1, 2)  # as it is used
        torch.div(whole[..., :size], total[..., None], out=answer)
        return answer

    def _tiles(self, count: int, length: int, device: str) -> list[tuple[slice, slice]]:
        """Heads and queries of each tile: some heads whole, or a part of one."""
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
        """Room for exponents, shaped as logits [n, q, S]; of these [n, q, 3] beside the diagonal.

        A query's neighbours lie side by side, S + 1 further on for the next query. The first
        query has none before it and the last none after: there is some place at each end.
        """
        n, q, keys = logits.shape
        whole = self._room("exponents", (logits.numel() + 2 * LINE,), logits)
        start = whole.storage_offset() + LINE
        bands = whole.as_strided((n, q, 3), (q * keys, keys + 1, 1), start + first - 1)
        return whole[LINE:-LINE].view(logits.shape), bands

    def _extended(
        self, watched: _Watched, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key [N, S, D or D + 1] and value [N, S, D + C] in float32.

        The mask is one more component: each query has a one there, each key its bias.
        """
        rows, heads, length, size = query.shape
        masked = watched.group.mask is not None
        shape = (rows, heads, length, size + masked)
        q, k = self._room("query", shape, query), self._room("key", shape, query)
        q[..., :size], k[..., :size] = query, key
        if masked:
            real = watched.sequences.real
            bias = torch.zeros_like(real, dtype=k.dtype).masked_fill_(~real, NEVER)
            q[..., size], k[..., size] = 1, bias[:, None]
        v = self._room("value", (*shape[:3], size + watched.columns.shape[-1]), query)
        v[..., :size], v[..., size:] = value, watched.columns[:, None]
        q, k, v = (x.view(rows * heads, length, -1) for x in (q, k, v))
        return q, k, v

    def _room(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """A float32 tensor that is kept: fresh memory costs more than what is done in it."""
        need = math.prod(shape)
        kept = self._buffers.get(name)
        if kept is None or len(kept) < need or kept.device != like.device:
            kept = self._buffers[name] = like.new_zeros(need, dtype=torch.float32)
        return kept[:need].view(shape)


class _Received:
    """What each key token receives of an average counted query: `shares` [N, 1, S]."""

    def __init__(self, sequences: Sequences, heads: int):
        counted = sequences.counted.float()
        share = counted / counted.sum(-1, keepdim=True).clamp(min=1)
        self._share = share.repeat_interleave(heads, 0)
        self.shares = torch.zeros_like(self._share)[:, None]

    def add(self, some: slice, here: slice, exponents: Tensor, total: Tensor) -> None:
        each = self._share[some, here] / total
        self.shares[some].baddbmm_(each[:, None], exponents)


@dataclass(frozen=True)
class Watching:
    """A layout as `ByLength` is, whose statistics can be asked for after the forward pass."""

    plain: ByLength
    groups: list[_Watched]
    watch: Watch

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """Attention [total, heads, size] of query, key and value of the same shape."""

        def dense(group: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return self.watch.attend(self.groups[group], q, k, v, scale)

        return self.plain.through(query, key, value, dense)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Values float32 [rows, K, layers·H], and the tokens behind each, int32 [rows, K]."""
        values = [torch.stack(watched.layers, 2).flatten(2) for watched in self.groups]
        return torch.cat(values), torch.cat([watched.counts for watched in self.groups])
