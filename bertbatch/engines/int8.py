"""Linear layers in int8, on CPUs, by the project's own kernels."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as plain_linear

from bertbatch.engines.fused_linear import Place
from bertbatch.engines.linear_operators import TransposedLinear
from bertbatch.native.kernels import find_kernels


class Int8Linear(nn.Module):
    """y = act(x Wᵀ + b) in int8: weights are rounded once, x at each call.

    Weights have one scale for each output, so that the largest becomes 127. Each row of x has a
    scale, of 127 or 255 steps from its least to its largest value, as many as the processor adds
    exactly. Raises ValueError if there are no kernels for the layer here.
    """

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__()
        kernels = find_kernels()
        if kernels is None or not kernels.has_int8(linear):
            raise ValueError("there are no kernels for this layer on this processor")
        self._kernels = kernels
        self._scales, rounded = _rounded(linear.weight.detach())
        self._columns = (rounded.double() * self._scales[:, None]).sum(1).float()
        self._weight = kernels.pack_int8(rounded)
        self._bias = linear.bias.detach().contiguous()
        self._activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.plus(x)

    def plus(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """forward(x) + residual"""
        if residual is not None:
            residual = residual.contiguous()
        return self._kernels.linear_int8(
            x.contiguous(),
            self._weight,
            self._scales,
            self._columns,
            self._bias,
            self._activation,
            residual,
        )


def in_int8(layers: Iterable[nn.Linear]) -> list[nn.Linear]:
    """Those of the layers that the kernels can compute; the others stay in float32.

    Raises ValueError if there are none.
    """
    kernels = find_kernels()
    if kernels is None:
        raise ValueError(
            "its kernels are not on this machine: they need x86-64 Linux, and a C++ "
            "compiler where bertbatch is installed"
        )
    found = [layer for layer in layers if kernels.has_int8(layer)]
    if not found:
        raise ValueError("the model has no layers of shapes that its kernels can compute")
    return found


def rounded(place: Place) -> nn.Module:
    """What takes a linear layer's place: in int8 if the kernels can, else in float32."""
    activation = "gelu" if place.follows == "gelu" else "none"
    kernels = find_kernels()
    kind = Int8Linear if kernels and kernels.has_int8(place.layer) else TransposedLinear
    return kind(place.layer, activation)


def formula(linear: nn.Linear, x: Tensor) -> Tensor:
    """The definition of what `Int8Linear` computes: the rounded operands in float32."""
    kernels = find_kernels()
    assert kernels
    scales, weight = _rounded(linear.weight.detach())
    least, most = torch.aminmax(x, dim=-1, keepdim=True)
    # Multiplied as the kernels do: a quotient that is rounded otherwise is another step.
    scale = (most - least).clamp(min=1e-8) / kernels.int8_steps
    steps = (x.double() * (1 / scale) - least / scale).round()
    return plain_linear(steps.float() * scale + least, weight * scales[:, None], linear.bias)


def _rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The scale of each output, and its weights as int8."""
    scales = weight.abs().amax(1).clamp(min=1e-8) / 127
    return scales, (weight / scales[:, None]).round().to(torch.int8)
