"""Attention as two batched matrix products, for bfloat16 on CPUs.

If a processor multiplies bfloat16 in vectors but not in tiles (AVX512-BF16 without AMX),
oneDNN's batched products are about twice as fast as those inside torch's attention kernel.
"""

import torch
from torch import Tensor

# Attention weights that each thread computes at a time. As bfloat16 they take a MiB, which stays
# in a core's cache. The buffer is kept: fresh pages from the system cost more than the products.
CHUNK = 1 << 19
SHORT = 64  # tokens; for shorter rows, broadcasting one row of a mask would be slow


class BmmAttention:
    """softmax(Q Kᵀ · scale + mask) V, called as torch's scaled_dot_product_attention is.

    Attention(Q, K, V) as in https://arxiv.org/abs/1706.03762, section 3.2.1. Not thread-safe:
    the attention weights have one buffer.
    """

    def __init__(self, threads: int):
        self._chunk = CHUNK * threads
        self._buffers = torch.empty(2, 0, dtype=torch.bfloat16)

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None,
        scale: float | None,
    ) -> Tensor:
        """Attention [rows, heads, length, size] of query, key and value of that shape.

        `attn_mask` bool [rows, 1, 1 or length, length] is true for the keys that are attended; of
        one row, it is every row's.
        """
        rows, heads, length, size = query.shape
        scale = size**-0.5 if scale is None else scale
        q, k, v = (x.reshape(-1, length, size) for x in (query, key, value))
        k = k.transpose(1, 2)
        out = torch.empty_like(v)
        bias = None
        if attn_mask is not None:
            bias = torch.zeros(attn_mask.shape, dtype=q.dtype)
            bias.masked_fill_(~attn_mask, float("-inf"))
            bias = bias.expand(rows, -1, -1, -1)
            if length < SHORT:
                bias = bias.expand(rows, 1, length, length).contiguous()
        area = length * length
        together = max(self._chunk // (heads * area), 1)  # rows
        part = min(max(self._chunk // area, 1), heads)  # heads, if one row is too large
        if self._buffers.shape[1] < (need := max(together * heads, part) * area):
            self._buffers = torch.empty(2, need, dtype=q.dtype)
        for row in range(0, rows, together):
            stop = min(row + together, rows)
            step = (stop - row) * heads if part == heads else part
            for first in range(row * heads, stop * heads, step):
                some = slice(first, min(first + step, stop * heads))
                count = some.stop - first
                scores, weights = self._buffers[:, : count * area].view(2, count, length, length)
                torch.baddbmm(scores, q[some], k[some], beta=0, alpha=scale, out=scores)
                if bias is not None:
                    scores.view(stop - row, -1, length, length).add_(bias[row:stop])
                torch.softmax(scores, -1, out=weights)
                torch.bmm(weights, v[some], out=out[some])
        return out.view(rows, heads, length, size)
