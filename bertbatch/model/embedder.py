"""A model whose answer to a text is a vector: an encoder with pooling after it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, gelu, normalize
from transformers.modeling_outputs import SequenceClassifierOutput

from bertbatch.model.sentence_transformers import Dense, Modules

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "gelu": gelu, "none": lambda x: x}


class Embedder(nn.Module):
    """An encoder of transformers, called as a classifier of transformers is.

    `logits` of what it returns are vectors float32 or less [rows, dimensions].
    """

    def __init__(self, encoder: Any, folder: Path, modules: Modules):
        super().__init__()
        self.base_model = encoder
        self.config = encoder.config
        self._pooling = modules.pooling
        self._layers = modules.layers
        self.dense = nn.ModuleList(
            _dense(folder, layer, encoder.dtype) for layer in modules.layers if layer
        )
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # it is made for one text a row, and nothing reads it

    def get_input_embeddings(self) -> Any:
        return self.base_model.get_input_embeddings()

    def set_attn_implementation(self, name: str) -> None:
        self.base_model.set_attn_implementation(name)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        starts: Tensor | None = None,
        used: int = 0,
        **others: Any,
    ) -> Any:
        """Of padded rows [rows, longest]; or of packed ones [1, total].

        Of the packed tokens `used` belong to rows, which begin at `starts` int64 [rows].
        """
        output = self.base_model(input_ids=input_ids, attention_mask=attention_mask, **others)
        hidden = output[0]
        if starts is not None:
            vectors = self._packed(hidden[0, :used], starts)
        else:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            vectors = self._padded(hidden, mask)
        dense = iter(self.dense)
        for layer in self._layers:
            if layer is None:
                vectors = normalize(vectors, dim=-1)
            else:
                activation: Callable[[Tensor], Tensor] = ACTIVATIONS[layer.activation]
                vectors = activation(next(dense)(vectors))
        attentions = getattr(output, "attentions", None)
        return SequenceClassifierOutput(logits=vectors, attentions=attentions)

    def _packed(self, hidden: Tensor, starts: Tensor) -> Tensor:
        if self._pooling == "cls":
            return hidden[starts]
        if self._pooling == "last":
            ends = torch.cat([starts[1:], starts.new_tensor([len(hidden)])])
            return hidden[ends - 1]
        return means(hidden, starts)

    def _padded(self, hidden: Tensor, mask: Tensor) -> Tensor:
        rows = torch.arange(len(hidden), device=hidden.device)
        if self._pooling == "cls":
            return hidden[rows, mask.argmax(1)]
        if self._pooling == "last":
            places = torch.arange(mask.shape[1], device=mask.device)
            return hidden[rows, (mask * places).argmax(1)]
        weights = mask[..., None].float()
        return ((hidden.float() * weights).sum(1) / weights.sum(1)).to(hidden.dtype)


def means(hidden: Tensor, starts: Tensor | None) -> Tensor:
    """The mean over each sequence of hidden states [tokens, size]: [rows, size].

    Sums are in float32, in the same order whatever other sequences there are.
    """
    tokens = torch.arange(len(hidden), device=hidden.device)
    return embedding_bag(tokens, hidden.float(), starts, mode="mean").to(hidden.dtype)


def _dense(folder: Path, layer: Dense, dtype: torch.dtype) -> nn.Linear:
    made = nn.Linear(layer.inputs, layer.outputs, bias=layer.bias)
    weights = load_file(folder / layer.folder / "model.safetensors")
    made.load_state_dict({name.removeprefix("linear."): x for name, x in weights.items()})
    return made.to(dtype)
