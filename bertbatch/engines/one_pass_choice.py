"""Attention statistics in one pass, if that gives what tiles give."""

from collections.abc import Callable

import numpy as np

from bertbatch.engines.attention_stats import AttentionStats
from bertbatch.errors import DeviceLost, OutOfMemory, first_line

# How far statistics in one pass may be from those by tiles, in the first layer and in all: answers
# of half precision are rounded otherwise, and the next layer's weights are of these answers.
ONE_PASS_OFF = {"float32": (1e-5, 1e-4), "float16": (5e-3, 5e-2), "bfloat16": (5e-3, 5e-2)}


def try_one_pass(
    statistics: AttentionStats,
    device: str,
    probed: Callable[[], np.ndarray],
    heads: int,
    precision: str,
) -> str:
    """Sets statistics to one pass, or to tiles; returns why not to one pass, empty if it is.

    `probed` gives the values of a probe, [rows, statistics, layers · heads]. Raises OutOfMemory,
    DeviceLost.
    """
    statistics.use_tiles()
    wanted = probed()
    try:
        statistics.use_one_pass(device)
        off = np.abs(probed() - wanted) / np.maximum(np.abs(wanted), 1)
        found = off[:, :, :heads].max(), off.max()
        if all(x <= most for x, most in zip(found, ONE_PASS_OFF[precision], strict=True)):
            return ""
        why = f"they are off by {off.max():.2g}"
    except (OutOfMemory, DeviceLost):
        raise
    except Exception as error:  # kernels and compilers raise anything
        why = first_line(error)
    statistics.use_tiles()
    return why
