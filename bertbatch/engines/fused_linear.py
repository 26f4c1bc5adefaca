"""Linear layers fused with the operations that follow them.

On CPUs oneDNN multiplies fastest from its own blocked layout of the weights, and adds bias,
GELU or the residual while a result is still in a register. These are the operators that
torch.compile would emit, without its minute of compiling. If a processor or a build of torch
lacks them, transformers' own layers stay.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from bertbatch.engines.int8 import Int8Linear

log = logging.getLogger("bertbatch")

# A linear layer and its activation, the parts of a feed-forward block that become one operator.
ACTIVATED = (("dense", "intermediate_act_fn"), ("lin1", "activation"))
EXACT_GELU = ("GELUActivation",)


class FusedLinear(nn.Module):
    """y = act(x Wᵀ + b) of x [tokens, in] or [1, tokens, in]."""

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
        """forward(x) + residual"""
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, residual, self._weight, self._bias, "add"
        )
        return y


def can_fuse(dtype: torch.dtype) -> bool:
    """Whether this processor and this build of torch have the operators, by trying them."""
    try:
        with torch.inference_mode():
            layer = nn.Linear(16, 16, dtype=dtype)
            fused = FusedLinear(layer, "gelu")
            x = torch.ones(1, 2, 16, dtype=dtype)
            fused.plus(fused(x), x)
    except (AttributeError, RuntimeError) as error:
        log.debug("no fused linear layers in %s here: %s", dtype, error)
        return False
    return True


class FusedResidual(nn.Module):
    """LayerNorm(x Wᵀ + b + residual), the end of both halves of a BERT layer."""

    def __init__(self, linear: "FusedLinear | Int8Linear", norm: nn.Module):
        super().__init__()
        self._linear = linear
        self._norm = norm

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        y: Tensor = self._norm(self._linear.plus(hidden_states, input_tensor))
        return y


def fuse(module: Any, layer: "type[FusedLinear | Int8Linear]") -> None:
    """Replaces the linear layers below a module by layers of this class, in place.

    The modules' structure tells which layers can be fused. The caller checks that the answers
    stay the same.
    """
    for name, child in module.named_children():
        parts = {part for part, _ in child.named_children()}
        if parts == {"dense", "LayerNorm", "dropout"}:
            setattr(module, name, FusedResidual(layer(child.dense), child.LayerNorm))
            continue
        for linear, activation in ACTIVATED:
            act = getattr(child, activation, None)
            if linear in parts and type(act).__name__ in EXACT_GELU:
                setattr(child, linear, layer(getattr(child, linear), "gelu"))
                setattr(child, activation, nn.Identity())
        if isinstance(child, nn.Linear) and child.bias is not None:
            setattr(module, name, layer(child))
        else:
            fuse(child, layer)


def compile_parts(module: Any) -> None:
    """Compiles the parts of a layer around attention, in place, for batches of any size.

    torch.compile gains in the operations after linear layers: bias, GELU, residual and LayerNorm
    in one pass. Attention has a kernel of its own.
    """
    for child in module.children():
        parts = {part for part, _ in child.named_children()}
        ends = parts == {"dense", "LayerNorm", "dropout"}
        if ends or any({linear, act} <= parts for linear, act in ACTIVATED):
            child.compile(dynamic=True)
        else:
            compile_parts(child)


def uncompile_parts(module: Any) -> None:
    """Undoes `compile_parts`."""
    for part in module.modules():
        part._compiled_call_impl = None
