"""Sample rows that show whether an engine's answers are right, before it scores any row.

`probe_texts` makes them.
"""

from dataclasses import dataclass

import numpy as np

from bertbatch.model.tokens import Padding, Tokens

# How far the logits of rows in a batch may be from those of the same rows alone, as a share of
# the largest logit. In half precision the shape of a batch changes the rounding.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.03}
# The same for a regression's values, as a share of their spread: a large common offset must not
# hide a difference.
SPREAD = 0.01
# A class whose logits are all near zero counts as if its largest were this share of the largest.
LEAST_SHARE = 0.1
ROUNDING = 4e-6  # rounding of sums in float32, as a share of the largest value
CANCELLED = 5e-7  # what rounding leaves where large parts of a sum cancel out; layers' are near 1


@dataclass(frozen=True)
class Probe:
    """Rows of real text in the model's own tokens, from a few tokens to its maximal length.

    `vocabulary`: one more than the tokenizer's largest id. `types_matter`: a single text has
    token types other than zero. `sample`: more texts, for comparing a quantized model with
    float32; None for other models.
    """

    tokens: Tokens
    padding: Padding
    vocabulary: int
    types_matter: bool
    sample: Tokens | None = None


def excess(got: np.ndarray, wanted: np.ndarray, problem_type: str, dtype: str) -> float:
    """The largest difference of logits [rows, classes], in tolerances: above 1 is too much.

    `wanted` are the logits of the rows alone. Rows whose logits alone are not finite do not count.
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
    if problem_type.startswith("multi_label"):  # classes are independent
        allowed = TOLERANCE[dtype] * np.maximum(size.max(0), LEAST_SHARE * size.max())
    elif problem_type == "regression":
        least = np.maximum(SPREAD * np.ptp(wanted, axis=0), ROUNDING * size.max(0))
        allowed = np.maximum(allowed, CANCELLED)
        least = np.maximum(least, CANCELLED)
        allowed = np.minimum(allowed, least)
    return float((off / np.maximum(allowed, 1e-12)).max())
