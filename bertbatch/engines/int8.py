"""Linear layers in int8, checked against float32.

The checks run on the processor at hand before any row is scored: some processors add two
products in 16 bits, where large ones overflow silently.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear as plain_linear

# How far probabilities over the sample may be from float32's, on average and at most. Labels must
# be the same where float32's two likeliest classes are further apart than CLEAR_LEAD.
MEAN_OFF, MOST_OFF, CLEAR_LEAD = 0.008, 0.15, 0.2
LAYER_OFF = 1e-3  # how far a layer may be from the formula, as a share of its largest output


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


def formula(linear: nn.Linear, x: Tensor) -> Tensor:
    """The definition of what `Int8Linear` computes: the rounded operands in float32."""
    scales, rounded = _rounded(linear.weight.detach())
    scale, zero = _steps(x)
    # Multiplied as `Int8Linear` does: a quotient that is rounded otherwise is another step.
    steps = torch.floor(torch.add(torch.tensor(zero + 0.5), x, alpha=1 / scale)) - zero
    return plain_linear(steps * scale, rounded * scales[:, None], linear.bias)


def check_products(module: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Compares layers of each shape below a module with the formula, where sums are largest.

    All of x is at its largest, and so are the weights, of both signs. Raises ValueError if this
    processor's products differ.
    """
    linears = (m for m in module.modules() if isinstance(m, nn.Linear))
    for outputs, inputs in {tuple(m.weight.shape) for m in linears}:
        layer = nn.Linear(inputs, outputs)
        with torch.inference_mode():
            sign = torch.where(torch.arange(outputs) % 2 == 0, 1.0, -1.0)
            layer.weight.copy_(sign[:, None].expand_as(layer.weight))
            layer.bias.zero_()
            x = torch.ones(1, 4, inputs)
            x[:, 1] = 0.5  # so that rounding matters, too
            wanted = formula(layer, x)
            off = float((make(layer)(x) - wanted).abs().max() / wanted.abs().max())
        if not off <= LAYER_OFF:
            raise ValueError(
                f"this processor's int8 products of {inputs} × {outputs} are off by {off:.0%}: it "
                "adds them in 16 bits, where large ones do not fit"
            )


def check_answers(got: np.ndarray, wanted: np.ndarray, problem_type: str) -> None:
    """Compares a sample's logits [texts, classes] in int8 with float32's. Raises ValueError.

    Probabilities are compared; of regressions the values, as shares of their spread.
    """
    now, then = (_probabilities(x, problem_type, wanted) for x in (got, wanted))
    off = np.abs(now - then)
    if not (off.mean() <= MEAN_OFF and off.max() <= MOST_OFF):
        raise ValueError(
            f"on {len(off)} texts its answers are off float32's by {off.mean():.2g} on average "
            f"and {off.max():.2g} at most, where {MEAN_OFF:g} and {MOST_OFF:g} are allowed"
        )
    if problem_type.startswith("single_label"):
        order = np.sort(then, axis=1)
        clear = order[:, -1] - order[:, -2] > CLEAR_LEAD
        flipped = int((clear & (now.argmax(1) != then.argmax(1))).sum())
        if flipped:
            raise ValueError(f"on {len(off)} texts {flipped} clear labels differ from float32's")


def _probabilities(logits: np.ndarray, problem_type: str, wanted: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(logits).double()
    if problem_type.startswith("single_label"):
        return np.asarray(torch.softmax(x, -1))
    if problem_type.startswith("multi_label"):
        return np.asarray(torch.sigmoid(x))
    return np.asarray(x / max(float(np.ptp(wanted)), 1e-12))


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
