"""The arguments of a transformers classifier for padded rows.

The signature of a model of transformers tells which arguments it has. Ids, token types and the
side of the padding are the tokenizer's.
"""

import inspect
from typing import Any

import numpy as np

from bertbatch.engines.batching import padded, real_places
from bertbatch.model.embedder import Embedder
from bertbatch.model.tokens import Batch, Padding

NO_PADDING = Padding(0, 0, False)


class ModelInputs:
    """The arguments of one model. A model that takes no mask, or no token types, gets none."""

    def __init__(self, has_types: bool, has_mask: bool, padding: Padding = NO_PADDING):
        self.has_types, self.has_mask, self.padding = has_types, has_mask, padding

    @classmethod
    def of(cls, model: Any, padding: Padding = NO_PADDING) -> "ModelInputs":
        """Those of a model of transformers."""
        inner = model.base_model if isinstance(model, Embedder) else model
        known = inspect.signature(type(inner).forward).parameters
        # A model with one token type, or none, has no embedding for a second one.
        types = getattr(model.config, "type_vocab_size", None)
        has_types = "token_type_ids" in known and (types is None or types > 1)
        return cls(has_types, "attention_mask" in known, padding)

    def padded(self, batch: Batch, always_mask: bool = False) -> dict[str, np.ndarray]:
        """Arrays int64 [rows, longest] by argument.

        The mask is left out if nothing is padded, unless `always_mask`.
        """
        mask = real_places(batch.lengths, self.padding.left)
        arguments = {"input_ids": padded(batch.ids, mask, self.padding.id)}
        if self.has_mask and (always_mask or not mask.all()):
            arguments["attention_mask"] = mask.astype(np.int64)
        if self.has_types and batch.types is not None:
            arguments["token_type_ids"] = padded(batch.types, mask, self.padding.type)
        return arguments
