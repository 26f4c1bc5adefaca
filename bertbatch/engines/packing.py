"""Sequences packed end to end, without padding.

The model's own code runs on ids [1, total] with explicit positions. Only attention needs to know
where a sequence ends. transformers' `AttentionInterface` gives access to attention, so every
encoder that uses it can be packed. The head of a sequence classifier gets the first token of each
sequence, the only one that these classifiers use.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from bertbatch.model.tokens import Batch

NAME = "bertbatch_packed"
MOST_ROWS = 65_535  # in one kernel call: the limit of a CUDA grid's second and third dimension
NOT_PASSED = "its encoder does not pass on what packed batches need"
ALIGNED = 16  # CPU attention kernels are up to twice as fast for multiples of this length


def to_device(array: np.ndarray, device: str) -> Tensor:
    """The array on a device. It may still be copied to a GPU when this returns."""
    tensor = torch.from_numpy(array)
    return tensor if device == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Group:
    """Sequences that attend in one call, each padded to `length` tokens.

    `index` [rows * length] gathers them from the packed tokens; without `index` they are adjacent
    there, from `start` on. `mask` [rows, 1, 1, length] is None if nothing is padded.
    """

    start: int
    rows: int
    length: int
    index: Tensor | None
    mask: Tensor | None


@dataclass(frozen=True)
class ByLength:
    """Attention by groups of nearly equal lengths, with one dense call for each.

    `restore` [total] is the place of each packed token in the groups' concatenated outputs.
    `dense` has the signature of `scaled_dot_product_attention`, with a scale.
    """

    groups: list[Group]
    restore: Tensor | None
    dense: Callable[..., Tensor]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """Attention [total, heads, size] of query, key and value of the same shape."""

        def dense(group: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return self.dense(q, k, v, attn_mask=self.groups[group].mask, scale=scale)

        return self.through(query, key, value, dense)

    def through(
        self, query: Tensor, key: Tensor, value: Tensor, dense: Callable[..., Tensor]
    ) -> Tensor:
        """Attention by `dense`, called with a group's number, its query, key and value.

        These, and the result, are [rows, heads, length, size].
        """
        _, heads, size = query.shape
        outputs = []
        for number, group in enumerate(self.groups):
            shape = (group.rows, group.length, heads, size)
            q, k, v = (_take(x, group).view(shape).transpose(1, 2) for x in (query, key, value))
            answer = dense(number, q, k, v)
            outputs.append(answer.transpose(1, 2).reshape(-1, heads * size))
        whole = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        if self.restore is not None:
            whole = whole.index_select(0, self.restore)
        return whole.view(-1, heads, size)


@dataclass(frozen=True)
class Variable:
    """Attention in one kernel, which takes the sequences' bounds, int32 [rows + 1]."""

    bounds: Tensor
    longest: int

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """Attention [total, heads, size] of query, key and value of the same shape."""
        from torch.nn.attention.varlen import varlen_attn

        bounds, longest = self.bounds, self.longest
        answer = varlen_attn(query, key, value, bounds, bounds, longest, longest, scale=scale)
        assert isinstance(answer, Tensor)
        return answer


def by_length(
    lengths: np.ndarray,
    total: int,
    device: str,
    dense: Callable[..., Tensor] = scaled_dot_product_attention,
) -> ByLength:
    """The layout of sequences of these lengths, packed in this order into `total` tokens.

    Neighbours whose lengths round up to the same multiple of `ALIGNED` share a group, unless there
    are too many for a kernel.
    """
    starts = np.concatenate([[0], np.cumsum(lengths)])
    rounded = -(-lengths // ALIGNED) * ALIGNED
    edges = np.flatnonzero(np.diff(rounded)) + 1
    edges = np.union1d(edges, np.arange(MOST_ROWS, len(lengths), MOST_ROWS))
    restore = np.zeros(total, np.int64)
    groups: list[Group] = []
    offset = 0
    for rows in np.split(np.arange(len(lengths)), edges):
        length = int(rounded[rows[0]])
        first = int(starts[rows[0]])
        keep = np.arange(length) < lengths[rows][:, None]
        index: Tensor | None = None
        mask: Tensor | None = None
        if not keep.all():
            # Padded with each row's own first token, so that values that are not finite stay there.
            begin = starts[rows][:, None]
            places = np.where(keep, begin + np.arange(length), begin)
            index = to_device(places.ravel(), device)
            mask = to_device(keep, device)[:, None, None]
        groups.append(Group(first, len(rows), length, index, mask))
        restore[first : int(starts[rows[-1] + 1])] = offset + np.flatnonzero(keep)
        offset += keep.size
    plain = len(lengths) and all(group.index is None for group in groups) and total == starts[-1]
    return ByLength(groups, None if plain else to_device(restore, device), dense)


def variable(lengths: np.ndarray, total: int, device: str) -> Variable | ByLength:
    """The same for the kernel of `Variable`; the tokens that fill up `total` are one sequence."""
    if len(lengths) >= MOST_ROWS:
        return by_length(lengths, total, device)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    if bounds[-1] < total:
        bounds = np.append(bounds, total)
    return Variable(to_device(bounds.astype(np.int32), device), int(np.diff(bounds).max()))


def packed_inputs(batch: Batch, total: int, pad_id: int, offset: bool) -> np.ndarray:
    """The ids, positions and token types of a packed batch, int64 [3, total].

    The batch is filled up with its first token, which the model surely accepts. `pad_id` and
    `offset` as in `positions`.
    """
    size = len(batch.ids)
    inputs = np.zeros((3, total), np.int64)
    inputs[0, :size] = batch.ids
    inputs[1, :size] = positions(batch.ids, batch.lengths, pad_id, offset)
    inputs[:2, size:] = inputs[:2, :1]
    if batch.types is not None:
        inputs[2, :size] = batch.types
    return inputs


def positions(ids: np.ndarray, lengths: np.ndarray, pad_id: int, offset: bool) -> np.ndarray:
    """Each token's position in its sequence, as the model counts: int64 [total].

    With `offset` as in RoBERTa: positions start after the padding id. A token that is the padding
    id (a text may spell it out) has that position and is not counted.
    """
    starts = np.cumsum(lengths) - lengths
    if not offset:
        place: np.ndarray = np.arange(len(ids)) - np.repeat(starts, lengths)
        return place
    counts = ids != pad_id
    running = np.cumsum(counts)
    before = running[starts] - counts[starts]
    place = (running - np.repeat(before, lengths)) * counts + pad_id
    return place


def pack(model: Any, first_only: bool) -> Any:
    """Makes a transformers model accept packed sequences; returns its encoder.

    The model is then called with ids and position_ids [1, total], `layout`, and `starts` [rows],
    the places of the sequences' first tokens. `first_only`: its head uses nothing but these.
    Raises ValueError if the encoder is not found.
    """
    encoder = next(
        (m for name, m in model.base_model.named_children() if name in ("encoder", "transformer")),
        None,
    )
    if encoder is None:
        raise ValueError("it has no encoder of a known shape")
    model.set_attn_implementation(NAME)
    if first_only:
        encoder.register_forward_hook(_first_tokens, with_kwargs=True)
    return encoder


def _first_tokens(encoder: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    if "starts" not in kwargs:
        raise ValueError(NOT_PASSED)
    output.last_hidden_state = output.last_hidden_state[0, kwargs["starts"]][:, None]
    return output


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """Called by transformers with query, key and value [1, heads, total, size]."""
    if "layout" not in kwargs:
        raise ValueError(NOT_PASSED)
    packed = (x[0].transpose(0, 1) for x in (query, key, value))
    return kwargs["layout"].attend(*packed, kwargs.get("scaling"))[None], None


def _take(x: Tensor, group: Group) -> Tensor:
    if group.index is None:
        return x[group.start : group.start + group.rows * group.length]
    return x.reshape(len(x), -1).index_select(0, group.index)


AttentionInterface.register(NAME, _attend)
# Without a mask function transformers would silently leave padding unmasked. A packed batch has no
# padding to mask: its layout says where sequences end.
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
