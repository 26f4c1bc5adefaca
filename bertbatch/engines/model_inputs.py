"""What a transformers classifier takes: padded rows as its own arguments.

Which arguments it has is read off its signature; ids, types and the side of the padding are
the tokenizer's.
"""

import inspect
from typing import Any

import numpy as np

from bertbatch.engines.batching import padded, real_places
from bertbatch.model.tokens import Padding


class ModelInputs:
    """The arguments of one model. A model without a mask gets none."""

    def __init__(self, model: Any):
        known = inspect.signature(type(model).forward).parameters
        # A table of one token type, or none, takes no second one.
        types = getattr(model.config, "type_vocab_size", None)
        self.has_types = "token_type_ids" in known and (types is None or types > 1)
        self.has_mask = "attention_mask" in known
        self.padding = Padding(0, 0, False)

    def made(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        types: np.ndarray | None,
        always_mask: bool = False,
    ) -> dict[str, np.ndarray]:
        """Arrays int64 [rows, longest] by argument; no mask if nothing is padded, unless always."""
        mask = real_places(lengths, self.padding.left)
        made = {"input_ids": padded(ids, mask, self.padding.id)}
        if self.has_mask and (always_mask or not mask.all()):
            made["attention_mask"] = mask.astype(np.int64)
        if self.has_types and types is not None:
            made["token_type_ids"] = padded(types, mask, self.padding.type)
        return made
