"""The operators that a linear layer can run by on a CPU.

Which is fastest depends on the processor, the layer's shape, the precision: it is measured, see
`operators.py`. An operator is one class that follows `LinearOperator`, and one line in `LINEAR`.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from bertbatch.native.kernels import find_kernels

NATIVE, ONE_DNN, ADDMM = "native", "oneDNN", "addmm"


class LinearOperator(Protocol):
    """y = act(x Wᵀ + b) of x [tokens, in] or [1, tokens, in]; `activation` is "none" or "gelu".

    Raises ValueError, AttributeError, RuntimeError if the operator is not there for this layer.
    """

    def __init__(self, linear: nn.Linear, activation: str = "none"): ...

    def forward(self, x: Tensor) -> Tensor: ...

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """forward(x) + residual"""


class NativeLinear(nn.Module):
    """The project's own kernel: bias, GELU or the residual are added in registers."""

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__()
        kernels = find_kernels()
        if kernels is None or not kernels.has_linear(linear):
            raise ValueError("there are no kernels for this layer on this processor")
        self._kernels = kernels
        self._weight = kernels.pack(linear.weight)
        self._bias = linear.bias.detach().float().contiguous()
        self._activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self._kernels.linear(x.contiguous(), self._weight, self._bias, self._activation)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        x, residual = x.contiguous(), residual.contiguous()
        return self._kernels.linear(x, self._weight, self._bias, self._activation, residual)


class OneDnnLinear(nn.Module):
    """oneDNN's product by weights in its own blocked layout, with bias and what follows.

    These are the operators that torch.compile would emit, without its minute of compiling.
    """

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self._bias = linear.bias.detach()
        self._activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, self._activation, [], "none"
        )
        return y

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, residual, self._weight, self._bias, "add"
        )
        return y


class TransposedLinear(nn.Module):
    """torch's `addmm` by weights that are transposed beforehand, and GELU in place."""

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__()
        self._weight = linear.weight.detach().t().contiguous()
        self._bias = linear.bias.detach()
        self._gelu = activation == "gelu"

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addmm(self._bias, x.reshape(-1, x.shape[-1]), self._weight)
        if self._gelu:
            torch.ops.aten.gelu_(y)
        return y.view(*x.shape[:-1], -1)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = self(x).add_(residual)
        return y


LINEAR: dict[str, type[LinearOperator]] = {
    NATIVE: NativeLinear,
    ONE_DNN: OneDnnLinear,
    ADDMM: TransposedLinear,
}
