"""Linear layers fused with the operations that follow them: GELU, the residual, LayerNorm.

The modules' structure tells which layers can be fused.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

# A linear layer and its activation, the parts of a feed-forward block that become one operator.
ACTIVATED = {"dense": "intermediate_act_fn", "lin1": "activation"}
EXACT_GELU = ("GELUActivation",)
ENDS = {"dense", "LayerNorm", "dropout"}  # the parts of the end of both halves of a BERT layer


@dataclass(frozen=True)
class Place:
    """Where a linear layer is, and what follows it: "gelu", "residual" or "none"."""

    parent: Any
    name: str  # of the layer in its parent; of its block if the residual follows
    layer: nn.Linear
    follows: str


# Makes what takes the place of a linear layer, with the methods of `LinearOperator`.
Make = Callable[[Place], nn.Module]


class FusedResidual(nn.Module):
    """LayerNorm(x Wᵀ + b + residual), the end of both halves of a BERT layer."""

    def __init__(self, linear: Any, norm: nn.Module):
        super().__init__()
        self._linear = linear
        self._norm = norm

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        y: Tensor = self._norm(self._linear.plus(hidden_states, input_tensor))
        return y


def add_biases(module: Any) -> None:
    """Gives layers below a module that have no bias one of zeros, as the operators expect it."""
    for child in module.modules():
        if isinstance(child, nn.Linear | nn.LayerNorm) and child.bias is None:
            weight = child.weight
            size = child.out_features if isinstance(child, nn.Linear) else weight.shape[0]
            zeros = weight.new_zeros(size) if weight is not None else None
            child.bias = None if zeros is None else nn.Parameter(zeros, requires_grad=False)


def places(module: Any) -> Iterator[Place]:
    """The linear layers below a module; one that several parents share, once for each."""
    for name, child in module.named_children():
        if _parts(child) == ENDS:
            yield Place(module, name, child.dense, "residual")
        elif isinstance(child, nn.Linear):
            act = getattr(module, ACTIVATED.get(name, ""), None)
            gelu = type(act).__name__ in EXACT_GELU
            yield Place(module, name, child, "gelu" if gelu else "none")
        else:
            yield from places(child)


def fuse(module: Any, make: Make) -> None:
    """Replaces the linear layers below a module, in place.

    The caller checks that the answers stay the same.
    """
    made: dict[nn.Linear, nn.Module] = {}
    for place in list(places(module)):
        if place.layer not in made:
            made[place.layer] = make(place)
        new = made[place.layer]
        if place.follows == "residual":
            new = FusedResidual(new, getattr(place.parent, place.name).LayerNorm)
        elif place.follows == "gelu":
            setattr(place.parent, ACTIVATED[place.name], nn.Identity())
        setattr(place.parent, place.name, new)


def compile_parts(module: Any) -> None:
    """Compiles the parts of a layer around attention, in place, for batches of any size.

    torch.compile gains in the operations after linear layers: bias, GELU, residual and LayerNorm
    in one pass. Attention has a kernel of its own.
    """
    for child in module.children():
        parts = _parts(child)
        if parts == ENDS or any({linear, act} <= parts for linear, act in ACTIVATED.items()):
            child.compile(dynamic=True)
        else:
            compile_parts(child)


def uncompile_parts(module: Any) -> None:
    """Undoes `compile_parts`."""
    for part in module.modules():
        part._compiled_call_impl = None


def _parts(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}
