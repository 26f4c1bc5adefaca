"""Linear layers in int8, on CPUs."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as plain_linear

from bertbatch.engines.fused_linear import Place


class Int8Linear(nn.Module):
    """y = act(x Wᵀ + b) in int8: weights are rounded once, x at each call.

    Weights have one scale for each output, so that the largest becomes 127. x [tokens, in] has one
    scale, of 254 steps from its least to its largest value, which leaves room for rounding zero.
    """

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__()
        self._scales, rounded = _rounded(linear.weight.detach())
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._zeros = torch.zeros(len(rounded), dtype=torch.int64)
        self._bias = linear.bias.detach()
        self._activation = activation

    def forward(self, x: Tensor) -> Tensor:
        scale, zero = _steps(x)
        x = torch.add(torch.tensor(zero + 0.5), x, alpha=1 / scale).to(torch.uint8)
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            qx=x,
            x_scale=scale,
            x_zero_point=zero,
            qw=self._weight,
            w_scale=self._scales,
            w_zero_point=self._zeros,
            bias=self._bias,
            output_scale=1.0,
            output_zero_point=0,
            output_dtype=torch.float32,
            post_op_name=self._activation,
            post_op_args=[],
            post_op_algorithm="none",
        )
        return y

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """forward(x) + residual"""
        y: Tensor = self(x).add_(residual)
        return y


def rounded(place: Place) -> Int8Linear:
    """What takes a linear layer's place."""
    return Int8Linear(place.layer, "gelu" if place.follows == "gelu" else "none")


def formula(linear: nn.Linear, x: Tensor) -> Tensor:
    """The definition of what `Int8Linear` computes: the rounded operands in float32."""
    scales, rounded = _rounded(linear.weight.detach())
    scale, zero = _steps(x)
    # Multiplied as `Int8Linear` does: a quotient that is rounded otherwise is another step.
    steps = torch.floor(torch.add(torch.tensor(zero + 0.5), x, alpha=1 / scale)) - zero
    return plain_linear(steps * scale, rounded * scales[:, None], linear.bias)


def _rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The scale of each output, and its weights as int8."""
    scales = weight.abs().amax(1).clamp(min=1e-8) / 127
    return scales, (weight / scales[:, None]).round().to(torch.int8)


def _steps(x: Tensor) -> tuple[float, int]:
    """The scale of x, in 254 steps from its least to its largest value, and the step of zero."""
    least, most = (float(end) for end in torch.aminmax(x))
    least, most = min(least, 0.0), max(most, 1e-8)
    scale = (most - least) / 254
    return scale, round(-least / scale)
