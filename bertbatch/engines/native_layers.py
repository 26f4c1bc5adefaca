"""Attention or LayerNorm by the project's own kernels, on CPUs."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from bertbatch.native.library import Library, library


class NativeNorm(nn.Module):
    """LayerNorm(x), as https://arxiv.org/abs/1607.06450 defines it.

    Raises ValueError if the kernels have none of this size or precision.
    """

    def __init__(self, norm: nn.LayerNorm):
        super().__init__()
        kernels = library()
        if kernels is None or not kernels.has_norm(norm):
            raise ValueError("the kernels have no such LayerNorm")
        self._norm, self._epsilon = kernels.norm, norm.eps
        self._gain, self._shift = norm.weight.detach().float(), norm.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        return self._norm(x.contiguous(), self._gain, self._shift, self._epsilon)


@dataclass(frozen=True)
class NativeLayout:
    """The layout of packed sequences with these bounds, int64 [sequences + 1]."""

    bounds: np.ndarray
    kernels: Library

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """Attention [total, heads, size] of query, key and value of the same shape.

        Raises ValueError if the kernels have none of this size or precision.
        """
        if not self.kernels.has_attention(query.shape[-1], query.dtype):
            raise ValueError("there are no kernels for such heads")
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        if scale <= 0:
            raise ValueError("the kernels scale by positive numbers")
        return self.kernels.attention(query, key, value, self.bounds, scale)


def native_layout(lengths: np.ndarray, total: int, device: str) -> NativeLayout:
    """The layout of sequences of these lengths; the tokens that fill up `total` are one more.

    Raises ValueError if there are no kernels here.
    """
    kernels = library()
    if kernels is None or device != "cpu":
        raise ValueError("there are no kernels for this processor")
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return NativeLayout(np.append(bounds, total) if bounds[-1] < total else bounds, kernels)
