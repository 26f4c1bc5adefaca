"""Rows that an engine is tried on before it scores any, and how far answers may differ there."""

from dataclasses import dataclass

import numpy as np

from bertbatch.model.tokens import Padding, Tokens

# How far the answers of rows together may be from those of the same rows alone, as a share of
# the largest logit; in half precision a batch's shape alone changes the rounding.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.03}
# The same of a regression's values, as a share of their spread: what they have in common
# with each other must not hide a difference.
SPREAD = 0.01
# A class whose logits are all near zero is compared as if its largest were this share of all.
LEAST_SHARE = 0.1
ROUNDING = 4e-6  # of the largest value, which float32 may lose in sums


@dataclass(frozen=True)
class Probe:
    """Rows of real text in the model's own tokens, from a few to as many as it takes.

    `vocabulary`: one more than the tokenizer's largest id. `types_matter`: a single text has
    token types other than zero. `sample` are more texts, which a quantized model is compared
    on; None without one.
    """

    tokens: Tokens
    padding: Padding
    vocabulary: int
    types_matter: bool
    sample: Tokens | None = None


def excess(got: np.ndarray, wanted: np.ndarray, problem_type: str, dtype: str) -> float:
    """The largest difference of logits [rows, classes], in tolerances: above 1 is too much.

    `wanted` are those of the rows alone. Rows that have no finite answer alone need none.
    """
    answered = np.isfinite(wanted).all(axis=1)
    got, wanted = got[answered], wanted[answered]
    if not len(wanted):
        return 0.0
    off = np.abs(got - wanted)
    if not np.isfinite(off).all():
        return float("inf")
    size = np.abs(wanted)
    allowed: np.ndarray | float = TOLERANCE[dtype] * float(size.max())
    if problem_type.startswith("multi_label"):  # each class stands for itself
        allowed = TOLERANCE[dtype] * np.maximum(size.max(0), LEAST_SHARE * size.max())
    elif problem_type == "regression":
        least = np.maximum(SPREAD * np.ptp(wanted, axis=0), ROUNDING * size.max(0))
        allowed = np.minimum(allowed, least)
    return float((off / np.maximum(allowed, 1e-12)).max())
