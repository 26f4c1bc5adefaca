"""Linear layers of the same input (query, key, value) as one product, which runs faster."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# The names of the linear layers of one input, as encoders call them.
TOGETHER = (
    *(("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj")),
    *(("query_proj", "key_proj", "value_proj"), ("q", "k", "v")),
)
WHOLE = "whole"  # the name of the linear layer that `_Joint` has in the place of all of them


class _Joint(nn.Module):
    """Layers of the same input: the first that is called computes all of them."""

    def __init__(self, layers: list[nn.Linear]):
        super().__init__()
        self._sizes = [layer.out_features for layer in layers]
        weight = torch.cat([layer.weight.detach() for layer in layers])
        bias = torch.cat([layer.bias.detach() for layer in layers])
        whole = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        whole.weight = nn.Parameter(weight, requires_grad=False)
        whole.bias = nn.Parameter(bias, requires_grad=False)
        self.whole = whole
        self._input: Tensor | None = None
        self._left: dict[int, Tensor] = {}

    def part(self, number: int, x: Tensor) -> Tensor:
        if x is not self._input or number not in self._left:
            self._input = x
            self._left = dict(enumerate(torch.split(self.whole(x), self._sizes, -1)))
        y = self._left.pop(number)
        if not self._left:
            self._input = None
        return y


class _Part(nn.Module):
    """One of the layers; its output lies among those of the others."""

    def __init__(self, joint: _Joint, number: int):
        super().__init__()
        self._joint, self._number = joint, number

    def forward(self, x: Tensor) -> Tensor:
        return self._joint.part(self._number, x)


def join(module: Any) -> Callable[[], None]:
    """Joins the products of each attention layer below a module, in place.

    Returns a function that undoes it. The caller checks that the answers stay the same.
    """
    changed: list[tuple[Any, str, nn.Linear]] = []
    for parent in list(module.modules()):
        for names in TOGETHER:
            found = [getattr(parent, name, None) for name in names]
            layers = [x for x in found if isinstance(x, nn.Linear) and x.bias is not None]
            if len(layers) == len(names) and len({layer.in_features for layer in layers}) == 1:
                joint = _Joint(layers)
                for number, (name, layer) in enumerate(zip(names, layers, strict=True)):
                    changed.append((parent, name, layer))
                    setattr(parent, name, _Part(joint, number))

    def undo() -> None:
        for parent, name, layer in changed:
            setattr(parent, name, layer)

    return undo
