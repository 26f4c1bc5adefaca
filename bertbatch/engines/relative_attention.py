"""Attention whose scores also depend on how far a key is from its query, for packed sequences.

These models have attention of their own, which is replaced. What is projected of distances is the
same for every batch, so that is done once.

Shapes: H heads, D head size, R rows of a group, S tokens of its longest row, M the longest row.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# A MiB of float32: of the scores by distance that are computed at a time.
CHUNK = 1 << 18
Attend = Callable[..., Tensor]


def replace_attention(model: Any, attend: Attend, longest: int) -> bool:
    """Replaces a model's own attention; whether it is one that is known.

    `attend` is called with query, key and value [total, H, D], the scale of their products, and a
    bias (see `Disentangled`). Rows have at most `longest` tokens. Raises ValueError if the model
    has more of its own.
    """
    replace = REPLACEABLE.get(model.config.model_type)
    if replace is None:
        return False
    with torch.no_grad():
        replace(model.base_model.encoder, attend, longest)
    return True


class Disentangled:
    """What distances add to the scores of DeBERTa (https://arxiv.org/abs/2006.03654, section 3.1).

    To the query i and the key j: q_i · k_δ(i−j) + k_j · q_δ(i−j), where k_δ and q_δ are
    projections of the distance's embedding. The tables float32 or less [H, 2 M − 1, D] are ordered
    by the distance, from −(M − 1) on; None if the model has no such term.
    """

    def __init__(self, keys: Tensor | None, queries: Tensor | None):
        self._keys = None if keys is None else keys.flip(1)  # by j − i
        self._queries = queries
        self._flipped: Tensor | None = None  # queries by j − i

    def tables(self) -> tuple[Tensor | None, Tensor | None, None]:
        """What `relative_kernel.py` reads, by j − i."""
        if self._queries is not None and self._flipped is None:
            self._flipped = self._queries.flip(1)
        return self._keys, self._flipped, None

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """The bias [R, H, S, S] of query (scaled) and key [R, H, S, D]."""
        rows, heads, length, _ = query.shape
        bias = query.new_zeros(heads, rows, length, length)
        step = max(CHUNK // (rows * length * (2 * length - 1)), 1)
        for first in range(0, heads, step):
            some = slice(first, first + step)
            if self._keys is not None:
                bias[some] += _by_distance(query[:, some], self._keys[some])
            if self._queries is not None:
                bias[some] += _by_distance(key[:, some], self._queries[some]).mT
        return bias.transpose(0, 1)


def _by_distance(x: Tensor, table: Tensor) -> Tensor:
    """Products of x [R, h, S, D] and a table's rows: [h, R, S, S].

    At (a, b) is that of x_a and the table's row for b − a, if rows are in the order of that. Each
    row of products by distance begins one place further on, so the answer is a view of them.
    """
    rows, heads, length, size = x.shape
    distances = 2 * length - 1
    middle = table.shape[1] // 2
    near = table[:, middle - length + 1 : middle + length]
    flat = x.transpose(0, 1).reshape(heads, rows * length, size)
    products = torch.bmm(flat, near.mT)
    strides = (rows * length * distances, length * distances, distances - 1, 1)
    return products.as_strided((heads, rows, length, length), strides, length - 1)


class Biased:
    """One bias for each head and distance, the same for all rows: [H, 2 M − 1], by j − i."""

    def __init__(self, table: Tensor):
        self._table = table
        self._made: dict[int, Tensor] = {}

    def tables(self) -> tuple[None, None, Tensor]:
        """What `relative_kernel.py` reads, by j − i."""
        return None, None, self._table

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """The bias [1, H, S, S]; lengths are few, since they are rounded."""
        length = query.shape[2]
        if length not in self._made:
            place = torch.arange(length, device=query.device)
            middle = self._table.shape[1] // 2
            self._made[length] = self._table[:, place - place[:, None] + middle][None]
        return self._made[length]


class _DebertaAttention(nn.Module):
    """In the place of transformers' DisentangledSelfAttention, with the same projections."""

    def __init__(self, own: Any, attend: Attend, bias: Disentangled, scale: float):
        super().__init__()
        self.query_proj, self.key_proj, self.value_proj = (
            own.query_proj,
            own.key_proj,
            own.value_proj,
        )
        self._heads = own.num_attention_heads
        self._attend, self._bias, self._scale = attend, bias, scale

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        query, key, value = (
            project(hidden_states)[0].unflatten(-1, (self._heads, -1))
            for project in (self.query_proj, self.key_proj, self.value_proj)
        )
        # Scaled beforehand, so that what distances add is scaled, too.
        out = self._attend(query * self._scale, key, value, 1.0, self._bias)
        return out.flatten(1)[None], None


def _replace_deberta(encoder: Any, attend: Attend, longest: int) -> None:
    if encoder.conv is not None:
        raise ValueError("it mixes neighbouring tokens (conv_kernel_size)")
    distances = torch.arange(1 - longest, longest)
    embedded, index = None, distances
    if encoder.relative_attention:
        from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

        embedded = encoder.get_rel_embedding()
        buckets, most = encoder.position_buckets, encoder.max_relative_positions
        if buckets > 0:
            index = make_log_bucket_position(distances, buckets, most).long()
        span = buckets if buckets > 0 else most
        index = (index + span).clamp(0, 2 * span - 1).to(embedded.device)
    for layer in encoder.layer:
        own = layer.attention.self
        kinds = [kind for kind in ("c2p", "p2c") if kind in own.pos_att_type]
        scale = (own.attention_head_size * (1 + len(kinds))) ** -0.5
        keys = queries = None
        if embedded is not None:
            shared = own.share_att_key
            if "c2p" in kinds:
                keys = _table(own.key_proj if shared else own.pos_key_proj, embedded, index, own)
            if "p2c" in kinds:
                project = own.query_proj if shared else own.pos_query_proj
                queries = _table(project, embedded, index, own) * scale
        bias = Disentangled(keys, queries)
        layer.attention.self = _DebertaAttention(own, attend, bias, scale)
    # Of all tokens together they would be as large as their number squared.
    encoder.get_rel_pos = lambda *_: None
    encoder.get_attention_mask = lambda mask: mask
    encoder.get_rel_embedding = lambda: None


def _table(project: Any, embedded: Tensor, index: Tensor, own: Any) -> Tensor:
    """Projected embeddings of distances, [H, 2 M − 1, D]."""
    found: Tensor = project(embedded)[index].unflatten(-1, (own.num_attention_heads, -1))
    return found.transpose(0, 1).contiguous()


class _MpnetAttention(nn.Module):
    """In the place of transformers' MPNetSelfAttention, with the same projections."""

    def __init__(self, own: Any, attend: Attend, bias: Biased):
        super().__init__()
        self.q, self.k, self.v, self.o = own.q, own.k, own.v, own.o
        self._heads, self._scale = own.num_attention_heads, own.attention_head_size**-0.5
        self._attend, self._bias = attend, bias

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        query, key, value = (
            project(hidden_states)[0].unflatten(-1, (self._heads, -1))
            for project in (self.q, self.k, self.v)
        )
        out = self._attend(query, key, value, self._scale, self._bias)
        return (self.o(out.flatten(1)[None]),)


def _replace_mpnet(encoder: Any, attend: Attend, longest: int) -> None:
    weight = encoder.relative_attention_bias.weight
    distances = torch.arange(1 - longest, longest, device=weight.device)
    bucket = encoder.relative_position_bucket(distances, num_buckets=weight.shape[0])
    bias = Biased(encoder.relative_attention_bias(bucket).T.contiguous())
    for layer in encoder.layer:
        layer.attention.attn = _MpnetAttention(layer.attention.attn, attend, bias)
    encoder.compute_position_bias = lambda _: None


REPLACEABLE: dict[str, Callable[[Any, Attend, int], None]] = {
    "deberta-v2": _replace_deberta,
    "mpnet": _replace_mpnet,
}
