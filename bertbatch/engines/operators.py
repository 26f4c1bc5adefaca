"""The operators of a packed model's layers on a CPU.

A kind of layer has a key; which operator it runs by is a name, chosen by `operator_choice.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from bertbatch.engines.bmm_attention import BmmAttention
from bertbatch.engines.fused_linear import Place, fuse
from bertbatch.engines.linear_operators import LINEAR, NATIVE
from bertbatch.engines.native_layers import NativeNorm, native_layout
from bertbatch.engines.packing import by_length

BMM, TORCH = "bmm", "torch"
ATTENTION = "attention"  # its key


def linear_key(place: Place) -> str:
    key = f"{place.layer.in_features}x{place.layer.out_features}"
    return key if place.follows == "none" else f"{key} {place.follows}"


def norm_key(norm: nn.LayerNorm) -> str:
    return f"norm {norm.normalized_shape[-1]}"


def linear_by(operator: str, place: Place) -> nn.Module:
    """Raises ValueError, AttributeError or RuntimeError if the operator is not there."""
    made: Any = LINEAR[operator](place.layer, "gelu" if place.follows == "gelu" else "none")
    assert isinstance(made, nn.Module)
    return made


def norm_by(operator: str, norm: nn.LayerNorm) -> nn.Module:
    """Raises ValueError if the operator is not there."""
    return NativeNorm(norm) if operator == NATIVE else norm


def layout_by(operator: str) -> Callable[..., Any]:
    """Makes layouts of packed sequences whose attention runs by an operator."""
    if operator == NATIVE:
        return native_layout
    if operator == BMM:
        return partial(by_length, dense=BmmAttention(torch.get_num_threads()))
    return by_length


def norms(encoder: nn.Module) -> Iterator[tuple[Any, str, nn.LayerNorm]]:
    """The LayerNorms below a module, with where they are."""
    for parent in list(encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.LayerNorm):
                yield parent, name, child


def replace_linears(encoder: nn.Module, operators: Mapping[str, str]) -> None:
    """Replaces the linear layers below a module by their operators, in place.

    Raises what `linear_by` does, KeyError if none was chosen for a layer.
    """
    fuse(encoder, lambda place: linear_by(operators[linear_key(place)], place))


def replace_norms(encoder: nn.Module, operators: Mapping[str, str]) -> None:
    """The same for LayerNorm."""
    for parent, name, norm in norms(encoder):
        setattr(parent, name, norm_by(operators[norm_key(norm)], norm))
