"""Attention or LayerNorm by the project's own kernels, on CPUs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from bertbatch.engines.packing import ByLength, by_length
from bertbatch.native.kernels import Kernels, find_kernels


class NativeNorm(nn.Module):
    """LayerNorm(x), as https://arxiv.org/abs/1607.06450 defines it.

    Raises ValueError if the kernels have none of this size or precision.
    """

    def __init__(self, norm: nn.LayerNorm):
        super().__init__()
        kernels = find_kernels()
        if kernels is None or not kernels.has_norm(norm):
            raise ValueError("the kernels have no such LayerNorm")
        self._kernels, self._epsilon = kernels, norm.eps
        self._gain, self._shift = norm.weight.detach().float(), norm.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        return self._kernels.norm(x.contiguous(), self._gain, self._shift, self._epsilon)


@dataclass(frozen=True)
class NativeLayout:
    """A layout of packed sequences.

    `bounds` int64 [sequences + 1]; what the kernels lack runs by `other`.
    """

    bounds: np.ndarray
    kernels: Kernels
    other: Callable[[], ByLength]

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float | None,
        reach: int | None = None,
    ) -> Tensor:
        """As `ByLength.attend`."""
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        if scale <= 0 or not self.kernels.has_attention(query.shape[-1], query.dtype):
            return self.other().attend(query, key, value, scale, reach)
        return self.kernels.attention(query, key, value, self.bounds, scale, reach)


def native_layout(lengths: np.ndarray, total: int, device: str) -> NativeLayout:
    """The layout of sequences of these lengths; the tokens that fill up `total` are one more.

    Raises ValueError if there are no kernels here.
    """
    kernels = find_kernels()
    if kernels is None or device != "cpu":
        raise ValueError("there are no kernels for this processor")
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    bounds = np.append(bounds, total) if bounds[-1] < total else bounds
    return NativeLayout(bounds, kernels, lambda: by_length(lengths, total, device))
