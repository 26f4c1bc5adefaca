"""The statistics of every head for one text whose weights are known."""

from typing import Any

import numpy as np

from bertbatch.engines.attention_stats import AttentionStats
from bertbatch.engines.tiled_attention import NEVER
from bertbatch.model.token_kinds import token_classes
from bertbatch.model.tokens import Batch
from bertbatch.registry import STATISTICS
from bertbatch.statistics.statistic import make_statistics

# All query tokens count here, so that this is 1/n whatever a head does.
CONSTANT = "received_mean"


def text_statistics(weights: np.ndarray, text: Batch, tokenizer: Any) -> dict[str, np.ndarray]:
    """Each statistic that the text has, by name: float32 [layers, heads].

    `weights` float32 [layers, heads, n, n], of a batch of this one text. What is about a token that
    the tokenizer lacks is left out, and so is what only pairs have, of a single text.
    """
    import torch

    statistics = [
        statistic
        for statistic in make_statistics([name for name in STATISTICS if name != CONSTANT])
        if statistic.needs is None or getattr(tokenizer, f"{statistic.needs}_token_id") is not None
    ]
    layers, heads, n, _ = weights.shape
    collector = AttentionStats(statistics, token_classes(tokenizer, statistics), "all", 1)
    layout = collector.layout(text, n, "cpu")
    nothing = torch.zeros(n, heads, 1)
    for layer in weights:
        # Attention whose scores are the logarithms of the weights has these weights.
        with np.errstate(divide="ignore"):
            scores = torch.from_numpy(np.log(layer)).clamp(min=NEVER)

        def bias(query: Any, key: Any, scores: Any = scores) -> Any:
            padding = query.shape[2] - n
            return torch.nn.functional.pad(scores, (0, padding, 0, padding), value=NEVER)[None]

        layout.attend(nothing, nothing, nothing, 1.0, bias=bias)
    values, counts = layout.statistics()
    return {
        statistic.name: values[0, k].reshape(layers, heads).numpy()
        for k, statistic in enumerate(statistics)
        if counts[0, k]
    }
