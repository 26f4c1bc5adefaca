"""Tail probabilities of Student's t distribution, for any degrees of freedom.

P(|T| ≥ t) = I_x(ν/2, 1/2) with x = ν/(ν + t²) and I the regularized incomplete beta function: DLMF
8.17.1, by its continued fraction 8.17.22, https://dlmf.nist.gov/8.17. ν need not be whole.
"""

import math

import numpy as np

TURNS = 20_000  # of the continued fraction; it takes some √ν
NEAR = 1e-13
_TINY = 1e-300

_log_gamma = np.vectorize(math.lgamma, otypes=[float])


def two_sided(t: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """P(|T| ≥ |t|) for each t with its degrees of freedom; 0 for an infinite t."""
    known = np.isfinite(t)
    square, nu = np.square(np.where(known, t, 1.0)), np.asarray(freedom, float)
    # Each side of 1 from its own sum, so that no digit is lost where x is near 0 or 1.
    x, rest = nu / (nu + square), square / (nu + square)
    a, b = nu / 2, np.full_like(nu, 0.5)
    swap = x > (a + 1) / (a + b + 2)  # the fraction converges fast below its mean
    a, b = np.where(swap, b, a), np.where(swap, a, b)
    x, rest = np.where(swap, rest, x), np.where(swap, x, rest)
    logs = _log_gamma(a + b) - _log_gamma(a) - _log_gamma(b)
    with np.errstate(divide="ignore"):
        front = np.exp(logs + a * np.log(x) + b * np.log(rest)) / a
    below = front * _fraction(a, b, x)
    return np.where(known, np.where(swap, 1 - below, below), 0.0)


def _fraction(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """1/(1 + d₁/(1 + d₂/(1 + …))) by Lentz's method, as Thompson & Barnett 1986 changed it."""
    numerator = np.ones_like(x)
    denominator = 1 / _apart(1 - (a + b) * x / (a + 1))
    found = denominator
    for m in range(1, TURNS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for d in (even, odd):
            denominator = 1 / _apart(1 + d * denominator)
            numerator = _apart(1 + d / numerator)
            step = numerator * denominator
            found = found * step
        if (np.abs(step - 1) < NEAR).all():
            break
    return found


def _apart(values: np.ndarray) -> np.ndarray:
    """The values, none of them nearly zero."""
    return np.where(np.abs(values) < _TINY, _TINY, values)
