"""Checks of linear layers in fewer bits against what they stand for.

They run on the processor at hand before any row is scored: some processors add two products of
int8 in 16 bits, where large ones overflow silently.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

# How far probabilities over the sample may be from the unrounded model's, on average and at most.
# Labels must be the same where its two likeliest classes are further apart than CLEAR_LEAD.
MEAN_OFF, MOST_OFF, CLEAR_LEAD = 0.01, 0.15, 0.2
ONE_LABEL = ("single_label_classification", "token_classification")  # of a text, of each token
# How far a layer may be from the formula, as a share of its largest output.
LAYER_OFF = {torch.float32: 1e-3, torch.bfloat16: 5e-3}


def linears(module: nn.Module) -> Iterator[nn.Linear]:
    """The linear layers below a module."""
    return (m for m in module.modules() if isinstance(m, nn.Linear))


def check_products(
    layers: Iterable[nn.Linear],
    make: Callable[[nn.Linear], nn.Module],
    formula: Callable[[nn.Linear, Tensor], Tensor],
) -> None:
    """Compares layers of each of these shapes with the formula, where sums are largest.

    They are on the same device and in the same precision as the given ones. Nearly all of x is at
    its largest, and so are the weights, of both signs. Raises ValueError if the products differ.
    """
    for like in {layer.weight.shape: layer for layer in layers}.values():
        outputs, inputs = like.weight.shape
        device, dtype = like.weight.device, like.weight.dtype
        with torch.inference_mode():
            sign = torch.where(torch.arange(outputs) % 2 == 0, 1.0, -1.0)
            layer = nn.Linear(inputs, outputs)
            layer.weight.copy_(sign[:, None].expand_as(layer.weight))
            layer.bias.zero_()
            x = torch.ones(1, 4, inputs)
            x[:, 1:3] = 0.5  # so that scales of rows matter
            x[..., 0] = 0  # where a row's steps begin; the others are the most
            x[:, 2, 1] = 1  # so that rounding matters, too
            layer, x = layer.to(dtype).to(device), x.to(dtype).to(device)
            wanted = formula(layer, x).float().cpu()
            off = float((make(layer)(x).float().cpu() - wanted).abs().max() / wanted.abs().max())
        if not off <= LAYER_OFF[dtype]:
            raise ValueError(
                f"this processor's products of {inputs} × {outputs} are off by {off:.0%}: sums do "
                "not fit, as where products of int8 are added in 16 bits"
            )


def check_answers(got: np.ndarray, wanted: np.ndarray, problem_type: str) -> None:
    """Compares a sample's logits [texts, classes] with those before rounding. Raises ValueError.

    Probabilities are compared; of regressions the values, as shares of their spread.
    """
    now, then = (_probabilities(x, problem_type, wanted) for x in (got, wanted))
    off = np.abs(now - then)
    if not (off.mean() <= MEAN_OFF and off.max() <= MOST_OFF):
        raise ValueError(
            f"on {len(off)} answers it is off by {off.mean():.2g} on average "
            f"and {off.max():.2g} at most, where {MEAN_OFF:g} and {MOST_OFF:g} are allowed"
        )
    if problem_type in ONE_LABEL:
        order = np.sort(then, axis=1)
        clear = order[:, -1] - order[:, -2] > CLEAR_LEAD
        flipped = int((clear & (now.argmax(1) != then.argmax(1))).sum())
        if flipped:
            raise ValueError(f"on {len(off)} answers {flipped} clear labels differ")


def _probabilities(logits: np.ndarray, problem_type: str, wanted: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(logits).double()
    if problem_type in ONE_LABEL:
        return np.asarray(torch.softmax(x, -1))
    if problem_type.startswith("multi_label"):
        return np.asarray(torch.sigmoid(x))
    if problem_type == "embedding":
        return np.asarray(normalize(x, dim=-1))
    return np.asarray(x / max(float(np.ptp(wanted)), 1e-12))
