"""The fastest operator for each kind of layer on this processor, found by timing them.

Those whose answers differ from torch's are left out.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from bertbatch.engines.fused_linear import Place, places
from bertbatch.engines.linear_operators import LINEAR, NATIVE
from bertbatch.engines.native_layers import NativeLayout
from bertbatch.engines.operators import (
    ATTENTION,
    BMM,
    TORCH,
    layout_by,
    linear_by,
    linear_key,
    norm_by,
    norm_key,
    norms,
)

# How far an operator's answers may be from torch's, as a share of the largest.
OFF = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
SHARE, MOST_SECONDS = 0.02, 3.0  # of a run's time that timing may take
FEWEST_SECONDS = 0.1  # in less time nothing can be told, and equal runs should choose alike
FEWEST_TOKENS, MOST_ROUNDS = 64, 8
RATE = 5e10  # float operations a second in a core, roughly: to know what there is time for
LENGTHS = (128, 16, 64, 32, 256)  # of the sequences that attention is timed with
Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Question:
    """What can run by several operators.

    `ways` make an operator ready for x [tokens, inputs]; they raise if it is not there. Where
    there is no time to measure, the first is taken that gives what `wanted` does. `cost` is in
    float operations a token.
    """

    ways: Mapping[str, Callable[[Tensor], Run]]
    wanted: Callable[[Tensor], Tensor]
    inputs: int
    cost: float


def seconds_for(expected_tokens: int, encoder: nn.Module) -> float:
    """How long operators may be timed in a run that scores so many tokens."""
    parameters = sum(p.numel() for p in encoder.parameters())
    return min(SHARE * 2 * parameters * expected_tokens / RATE, MOST_SECONDS)


def choose_operators(encoder: nn.Module, heads: int, tokens: int, seconds: float) -> dict[str, str]:
    """The operator for each kind of layer below a packed encoder, by its key.

    They are timed for about so many seconds, with batches of at most `tokens`.
    """
    seconds = seconds if seconds >= FEWEST_SECONDS else 0.0
    questions = dict(_questions(encoder, heads))
    dtype = next(encoder.parameters()).dtype
    whole = sum(question.cost * len(question.ways) for question in questions.values())
    fit = int(seconds * RATE / (3 * max(whole, 1)))  # for a first try, and two rounds
    tokens = max(min(fit, tokens), FEWEST_TOKENS)
    with torch.inference_mode():
        return {
            key: _fastest(question, tokens, dtype, seconds * question.cost / whole)
            for key, question in questions.items()
        }


def _questions(encoder: nn.Module, heads: int) -> Iterator[tuple[str, Question]]:
    size = 0
    seen = {linear_key(place): place for place in places(encoder)}
    for key, place in seen.items():
        size = size or place.layer.in_features
        yield key, _of_linear(place)
    for key, norm in {norm_key(norm): norm for _, _, norm in norms(encoder)}.items():
        yield key, _of_norm(norm)
    heads = heads or 1  # some configurations have other names for it
    if size:
        yield ATTENTION, _of_attention(heads, size // heads)


def _of_linear(place: Place) -> Question:
    layer = place.layer

    def way(operator: str) -> Callable[[Tensor], Run]:
        def ready(x: Tensor) -> Run:
            made: Any = linear_by(operator, place)
            if place.follows != "residual":
                return lambda: made(x)
            residual = torch.ones(len(x), layer.out_features, dtype=x.dtype)
            return lambda: made.plus(x, residual)

        return ready

    def wanted(x: Tensor) -> Tensor:
        y: Tensor = layer(x)
        return gelu(y) if place.follows == "gelu" else y + (place.follows == "residual")

    ways = {operator: way(operator) for operator in LINEAR}
    return Question(ways, wanted, layer.in_features, 2 * layer.weight.numel())


def _of_norm(norm: nn.LayerNorm) -> Question:
    def way(operator: str) -> Callable[[Tensor], Run]:
        def ready(x: Tensor) -> Run:
            made = norm_by(operator, norm)
            return lambda: made(x)

        return ready

    inputs = norm.normalized_shape[-1]
    return Question({name: way(name) for name in (NATIVE, TORCH)}, norm, inputs, 16 * inputs)


def _of_attention(heads: int, size: int) -> Question:
    def way(operator: str) -> Callable[[Tensor], Run]:
        make = layout_by(operator)

        def ready(x: Tensor) -> Run:
            layout = make(_lengths(len(x)), len(x), "cpu")
            if isinstance(layout, NativeLayout) and not layout.kernels.has_attention(size, x.dtype):
                raise ValueError("the kernels have no heads of this size")
            query, key, value = x.view(-1, 3, heads, size).unbind(1)
            return lambda: layout.attend(query, key, value, None, None)

        return ready

    ways = {name: way(name) for name in (NATIVE, BMM, TORCH)}
    cost = 4 * heads * size * float(np.average(LENGTHS, weights=LENGTHS))
    return Question(ways, lambda x: ways[TORCH](x)(), 3 * heads * size, cost)


def _lengths(tokens: int) -> np.ndarray:
    """The lengths of sequences of so many tokens in all, longest first."""
    lengths = np.resize(LENGTHS, tokens)
    ends = np.minimum(np.cumsum(lengths), tokens)
    lengths = np.diff(ends, prepend=0)
    return np.sort(lengths[lengths > 0])[::-1]


def _fastest(question: Question, tokens: int, dtype: torch.dtype, seconds: float) -> str:
    """The name of the fastest way; the last one is always right."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, question.inputs, generator=generator).to(dtype)
    wanted = question.wanted(x).float()
    least: dict[str, float] = {}
    ready: dict[str, Run] = {}
    for name, way in question.ways.items():
        try:
            run = way(x)
            off = (run().float() - wanted).abs().max() / wanted.abs().max()
        except (AttributeError, RuntimeError, ValueError):
            continue
        if off <= OFF[dtype]:
            ready[name], least[name] = run, float("inf")
    end = time.perf_counter() + seconds
    for _ in range(MOST_ROUNDS if len(ready) > 1 and seconds else 0):
        for name, run in ready.items():
            began = time.perf_counter()
            run()
            least[name] = min(least[name], time.perf_counter() - began)
        if time.perf_counter() > end:
            break
    return min(least, key=least.__getitem__, default=list(question.ways)[-1])
