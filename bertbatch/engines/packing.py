"""Sequences packed end to end, without padding: one row of tokens for a whole batch.

The model's own code runs on ids [1, total] with explicit positions; only attention knows
where a sequence ends. It is reached through transformers' `AttentionInterface`, so every
encoder that uses it can be packed, and the head sees each sequence's first token alone,
which is all that classifiers of the family look at.
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

from bertbatch.engines.devices import there

NAME = "bertbatch_packed"
MOST_ROWS = 65_535  # in a kernel's call: the second and third size of a CUDA grid end there
ALIGNED = 16  # CPU attention kernels run up to twice as fast on lengths that this divides


@dataclass(frozen=True)
class Group:
    """Sequences that attend in one call, each padded to `length` tokens.

    `index` [rows * length] gathers them from the packed tokens; without it they lie there
    side by side from `start` on. `mask` [rows, 1, 1, length] is absent if nothing is padded.
    """

    start: int
    rows: int
    length: int
    index: Tensor | None
    mask: Tensor | None


@dataclass(frozen=True)
class ByLength:
    """Attention by groups of nearly equal lengths, each a plain dense call.

    `restore` [total] finds each packed token in the groups' outputs laid end to end. `dense`
    is called as `scaled_dot_product_attention` is, with a scale.
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
        """The same by `dense`, called with a group's number and its q, k and v.

        Each of these, and its answer, is [rows, heads, length, size].
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
    """Attention in one kernel that takes the sequences' bounds, int32 [rows + 1]."""

    bounds: Tensor
    longest: int

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """Attention [total, heads, size] of query, key and value of the same shape."""
        from torch.nn.attention.varlen import varlen_attn

        ends = (self.bounds, self.bounds, self.longest, self.longest)
        answer = varlen_attn(query, key, value, *ends, scale=scale)
        assert isinstance(answer, Tensor)
        return answer


def by_length(
    lengths: np.ndarray,
    total: int,
    device: str,
    dense: Callable[..., Tensor] = scaled_dot_product_attention,
) -> ByLength:
    """How sequences of these lengths, packed in this order into `total` tokens, attend.

    Neighbours whose lengths round up to the same multiple of `ALIGNED` share a group, if they
    are not too many for a kernel.
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
            # Filled up with each row's own first token: what is not finite stays in its row.
            begin = starts[rows][:, None]
            places = np.where(keep, begin + np.arange(length), begin)
            index = there(places.ravel(), device)
            mask = there(keep, device)[:, None, None]
        groups.append(Group(first, len(rows), length, index, mask))
        restore[first : int(starts[rows[-1] + 1])] = offset + np.flatnonzero(keep)
        offset += keep.size
    plain = len(lengths) and all(group.index is None for group in groups) and total == starts[-1]
    return ByLength(groups, None if plain else there(restore, device), dense)


def variable(lengths: np.ndarray, total: int, device: str) -> Variable | ByLength:
    """The same for the kernel of `Variable`; what fills up `total` is a sequence of its own."""
    if len(lengths) >= MOST_ROWS:
        return by_length(lengths, total, device)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    if bounds[-1] < total:
        bounds = np.append(bounds, total)
    return Variable(there(bounds.astype(np.int32), device), int(np.diff(bounds).max()))


def positions(ids: np.ndarray, lengths: np.ndarray, pad_id: int, offset: bool) -> np.ndarray:
    """Each token's position in its sequence, as the model counts: int64 [total].

    With `offset`, RoBERTa's way: positions follow the padding id, and a token that is the
    padding id (a text may spell it out) has that position and is not counted.
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


def pack(model: Any) -> Any:
    """Makes a transformers classifier take packed sequences; returns its encoder.

    It is then called with ids and position_ids [1, total], `layout`, and `first` [rows], the
    places of the sequences' first tokens. Raises ValueError if its attention cannot be
    reached.
    """
    encoder = next(
        (m for name, m in model.base_model.named_children() if name in ("encoder", "transformer")),
        None,
    )
    if encoder is None:
        raise ValueError("it has no encoder of a known shape")
    model.set_attn_implementation(NAME)
    encoder.register_forward_hook(_first_tokens, with_kwargs=True)
    return encoder


def _first_tokens(encoder: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    if "first" not in kwargs:
        raise ValueError("its encoder does not pass on what packed batches need")
    output.last_hidden_state = output.last_hidden_state[0, kwargs["first"]][:, None]
    return output


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """What transformers calls: query, key, value [1, heads, total, size]."""
    packed = (x[0].transpose(0, 1) for x in (query, key, value))
    return kwargs["layout"].attend(*packed, kwargs.get("scaling"))[None], None


def _take(x: Tensor, group: Group) -> Tensor:
    if group.index is None:
        return x[group.start : group.start + group.rows * group.length]
    return x.reshape(len(x), -1).index_select(0, group.index)


AttentionInterface.register(NAME, _attend)
# Without a mask function transformers would leave padding unmasked without a word; here
# there is none to mask: the layout says it all.
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
