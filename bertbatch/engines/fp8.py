"""Linear layers in fp8 (e4m3), on GPUs of compute capability 8.9 or later.

Micikevicius et al. 2022, https://arxiv.org/abs/2209.05433. The encoder's first layer stays in
bfloat16, as do query, key and value everywhere: there rounding costs the most answers.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as plain_linear

from bertbatch.engines.joint_linear import TOGETHER, WHOLE

CAPABILITY = (8, 9)
LARGEST = 448.0  # of e4m3
KEPT = {WHOLE, *(name for names in TOGETHER for name in names)}


class Fp8Linear(nn.Module):
    """y = x Wᵀ + b: weights are rounded once, x at each call.

    Each output's weights and each token of x [tokens, in] or [1, tokens, in] have a scale, so that
    the largest becomes 448. Products are added in float32.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self._weight, scales = _rounded(linear.weight.detach())
        self._scales = scales.mT.contiguous()
        self._bias = linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        rounded, scales = _rounded(x.reshape(-1, x.shape[-1]))
        y = torch._scaled_mm(
            rounded,
            self._weight.mT,
            scale_a=scales,
            scale_b=self._scales,
            bias=self._bias,
            out_dtype=torch.bfloat16,
        )
        return y.view(*x.shape[:-1], -1)


def too_old() -> str:
    """Why this GPU has no fp8; empty if it has."""
    have = torch.cuda.get_device_capability()
    if have >= CAPABILITY:
        return ""
    return f"this GPU has compute capability {have[0]}.{have[1]}, and fp8 needs 8.9"


def formula(linear: nn.Linear, x: Tensor) -> Tensor:
    """The definition of what `Fp8Linear` computes: the rounded operands in float32."""
    (weight, of_weight), (rounded, of_x) = _rounded(linear.weight.detach()), _rounded(x)
    bias = linear.bias.float()
    return plain_linear(rounded.float() * of_x, weight.float() * of_weight, bias)


def replace_layers(encoder: Any) -> None:
    """Replaces the layers of `replaced` by `Fp8Linear`, in place."""
    for parent, name, layer in list(replaced(encoder)):
        setattr(parent, name, Fp8Linear(layer))


def replaced(encoder: Any) -> Iterator[tuple[Any, str, nn.Linear]]:
    """The linear layers that can be in fp8, with where they are: of all layers but the first."""
    layers = next(m for m in encoder.modules() if isinstance(m, nn.ModuleList))
    for layer in list(layers)[1:]:
        for parent in layer.modules():
            for name, child in parent.named_children():
                if isinstance(child, nn.Linear) and child.bias is not None and name not in KEPT:
                    yield parent, name, child


def _rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [rows, columns] as e4m3, and the scale of each row, float32 [rows, 1]."""
    scales = x.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (x.float() / scales).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scales
