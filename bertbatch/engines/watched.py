"""Attention that also computes its statistics, tile by tile, in the same pass.

A tile is a block of queries of some heads with all their keys: small enough to stay in a
core's cache, so that looking at the weights a few times more costs little. Scores, exponents
and sums are float32 whatever the model's precision. What is linear in the weights with a
factor for each key comes as further columns of V, out of the same matrix product.

Shapes: R rows of a group, H heads, S tokens of its longest row, D head size, N = R·H,
C further columns, K statistics.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bertbatch.engines.classes import TokenClasses
from bertbatch.engines.packed import ByLength, Group, by_length, there
from bertbatch.statistics.statistic import Statistic
from bertbatch.statistics.views import Queries, Sequences, Tile

# Weights in a tile, for each thread of a CPU: three buffers of half a MiB, within its cache.
CPU_TILE = 1 << 17
CUDA_TILE = 1 << 26
# A masked key's score. Not −∞, whose product with a weight of zero is not a number.
NEVER = -1e30


@dataclass
class _Watched:
    """A group with its statistics so far: [R, K, H] of each layer; `columns` [R, S, C]."""

    group: Group
    sequences: Sequences
    columns: Tensor
    columns_of: dict[str, slice]  # by the statistic's name
    counted: Tensor  # bool [K, R, S]
    distances: Tensor  # [S, S]
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
        self._buffers = torch.empty(3, 0)

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
        place = torch.arange(group.length, device=device, dtype=torch.float32)
        distances = (place[:, None] - place).abs_()
        return _Watched(group, sequences, torch.cat(columns, -1), of, each, distances)

    def attend(
        self, watched: _Watched, query: Tensor, key: Tensor, value: Tensor, scale: float | None
    ) -> Tensor:
        """Attention [R, H, S, D] of query, key and value of that shape; adds a layer."""
        rows, heads, length, size = query.shape
        scale = size**-0.5 if scale is None else scale
        q, k, v = _extended(watched, query, key, value)
        out = torch.empty_like(v)
        collecting = {s.shared: s.collect for s in self.statistics if s.shared}
        collected = {name: q.new_empty(rows * heads, length) for name in collecting}
        received = _Received(watched.sequences, heads) if self._over_keys else None
        for some, first, stop in self._tiles(rows * heads, length, q.device.type):
            here = slice(first, stop)
            logits, exponents, scratch = self._room(
                (some.stop - some.start, stop - first, length), q.device
            )
            torch.baddbmm(logits, q[some, here], k[some].mT, beta=0, alpha=scale, out=logits)
            logits.sub_(logits.amax(-1, keepdim=True))
            torch.exp(logits, out=exponents)
            torch.bmm(exponents, v[some], out=out[some, here])
            tile = Tile(logits, exponents, first, stop, scratch, watched.distances)
            for name, collect in collecting.items():
                sums = collect(tile)
                assert sums is not None
                collected[name][some, here] = sums
            if received:
                received.add(some, here, exponents, out[some, here, size])
        whole = out.view(rows, heads, length, -1)
        total = whole[..., size]
        by_query = {name: x.view(rows, heads, length) for name, x in collected.items()}
        queries = Queries(watched.sequences, total, whole[..., size:], watched.columns_of, by_query)
        means = [
            s.of_keys(received.shares.view(rows, heads, length), watched.sequences)
            if received and s.over_keys
            else _mean(s.of_queries(queries), counted)
            for s, counted in zip(self.statistics, watched.counted, strict=True)
        ]
        watched.layers.append(torch.stack(means, 1))
        return (whole[..., :size] / total[..., None]).to(value.dtype)

    @property
    def _over_keys(self) -> bool:
        return any(s.over_keys for s in self.statistics)

    def _tiles(self, count: int, length: int, device: str) -> Sequence[tuple[slice, int, int]]:
        """Heads and the queries of each tile: whole heads, or a part of one."""
        limit = CUDA_TILE if device == "cuda" else CPU_TILE * self._threads
        together = limit // (length * length)
        if together:
            return [
                (slice(i, min(i + together, count)), 0, length) for i in range(0, count, together)
            ]
        step = max(limit // length, 1)
        return [
            (slice(i, i + 1), first, min(first + step, length))
            for i in range(count)
            for first in range(0, length, step)
        ]

    def _room(self, shape: tuple[int, ...], device: torch.device) -> Sequence[Tensor]:
        need = int(np.prod(shape))
        if self._buffers.shape[1] < need or self._buffers.device != device:
            self._buffers = torch.empty(3, need, device=device)
        return [buffer[:need].view(shape) for buffer in self._buffers]


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


def _extended(
    watched: _Watched, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key [N, S, D or D + 1] and value [N, S, D + C] in float32.

    The mask is one more component: each query has a one there, each key its bias.
    """
    rows, heads, length, size = query.shape
    masked = watched.group.mask is not None
    q = query.new_ones(rows, heads, length, size + masked, dtype=torch.float32)
    k = torch.empty_like(q)
    q[..., :size], k[..., :size] = query, key
    if masked:
        real = watched.sequences.real
        k[..., size] = torch.zeros_like(real, dtype=k.dtype).masked_fill_(~real, NEVER)[:, None]
    v = q.new_empty(rows, heads, length, size + watched.columns.shape[-1])
    v[..., :size], v[..., size:] = value, watched.columns[:, None]
    q, k, v = (x.view(rows * heads, length, -1) for x in (q, k, v))
    return q, k, v


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """The mean [R, H] of values [R, H, S] over the tokens that count [R, S]."""
    chosen = torch.where(counted[:, None], values, 0)
    return chosen.sum(-1) / counted.sum(-1).clamp(min=1)[:, None]


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
        counts = [watched.counted.sum(-1, dtype=torch.int32).T for watched in self.groups]
        return torch.cat(values), torch.cat(counts)
