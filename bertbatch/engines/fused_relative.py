"""Attention by distances on GPUs, by the kernel of `relative_kernel.py`.

Imports Triton, which comes with torch for CUDA.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bertbatch.engines import relative_kernel as kernel
from bertbatch.engines.fused_blocks import SIZES, Launch, alike, blocks_of
from bertbatch.engines.packing import to_device
from bertbatch.engines.relative_attention import Biased, Disentangled


def launch(size: int, dtype: torch.dtype) -> Launch:
    """For heads of this size. Chosen so that nothing is spilled and shared memory is enough."""
    if dtype == torch.float32:
        rows = 32 if size <= 16 else 16
        return Launch(rows, 16, 4, 1, "tf32x3")
    return Launch(32, 32, 4, 1, "ieee")


@dataclass
class RelativeLayout:
    """The layout of one batch's sequences; the tokens that fill up `total` get no answer."""

    lengths: np.ndarray
    total: int
    device: str
    _blocks: Tensor | None = None

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float | None,
        reach: int | None = None,
        bias: Disentangled | Biased | None = None,
    ) -> Tensor:
        """As `ByLength.attend`. Raises ValueError if there is no kernel for it."""
        _, heads, size = query.shape
        if size not in SIZES:
            raise ValueError(f"there is no kernel for heads of {size}")
        if reach is not None or bias is None:
            raise ValueError("there is no kernel for attention that does not depend on distances")
        query, key, value = alike(query, key, value)
        how = launch(size, query.dtype)
        if self._blocks is None:  # in the first layer
            each, _ = blocks_of(self.lengths, self.lengths, how.rows)
            self._blocks = to_device(each, self.device)
        tables = bias.tables()
        distances = next((len(t[0]) for t in tables if t is not None), 1)
        out = query.new_zeros(self.total, heads, size)
        kernel.attend[(len(self._blocks) * heads,)](
            query, key, value, *(query if t is None else t for t in tables), self._blocks, out,
            query.stride(0), size**-0.5 if scale is None else scale, distances,
            HEADS=heads, SIZE=size, ROWS=how.rows, KEYS=how.keys, WIDE=2 * max(how.rows, how.keys),
            KEYED=tables[0] is not None, QUERIED=tables[1] is not None, ADDED=tables[2] is not None,
            PRECISION=how.precision, num_warps=how.warps, num_stages=how.stages,
        )  # fmt: skip
        return out
