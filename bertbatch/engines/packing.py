"""Sequences packed end to end, without padding.

The model's own code runs on ids [1, total] with explicit positions. Only attention needs to know
where a sequence ends. transformers' `AttentionInterface` gives access to attention, so every
encoder that uses it can be packed. The head of a sequence classifier gets one hidden state of each
sequence: that of its first token, or their mean.
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

from bertbatch.engines.relative_attention import replace_attention
from bertbatch.model.embedder import means
from bertbatch.model.tokens import Batch

NAME = "bertbatch_packed"
MOST_ROWS = 65_535  # in one kernel call: the limit of a CUDA grid's second and third dimension
ALIGNED = 16  # CPU attention kernels are up to twice as fast for multiples of this length


Bias = Callable[[Tensor, Tensor], Tensor]


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

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float | None,
        reach: int | None = None,
        bias: Bias | None = None,
    ) -> Tensor:
        """Attention [total, heads, size] of query, key and value of the same shape.

        `reach`: how far from a query keys may be, in tokens; None if that does not matter. `bias`:
        makes of a group's query and key what is added to their scores, [rows or 1, heads, length,
        length].
        """

        def dense(group: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            mask = within(self.groups[group], reach, q.device)
            if bias is not None:
                added = bias(q, k)
                mask = added if mask is None else added.masked_fill(~mask, float("-inf"))
                return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
            return self.dense(q, k, v, attn_mask=mask, scale=scale)

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

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float | None,
        reach: int | None = None,
    ) -> Tensor:
        """As `ByLength.attend`."""
        from torch.nn.attention.varlen import varlen_attn

        bounds, longest = self.bounds, self.longest
        near: dict[str, Any] = {} if reach is None else {"window_size": (reach, reach)}
        answer = varlen_attn(
            query, key, value, bounds, bounds, longest, longest, scale=scale, **near
        )
        assert isinstance(answer, Tensor)
        return answer


def within(group: Group, reach: int | None, device: torch.device) -> Tensor | None:
    """The mask of a group where keys further from a query than this are not attended."""
    if reach is None or reach >= group.length - 1:
        return group.mask
    place = torch.arange(group.length, device=device)
    near = ((place[:, None] - place).abs() <= reach)[None, None]
    return near if group.mask is None else near & group.mask


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


def in_one_kernel(lengths: np.ndarray, total: int, device: str) -> Any:
    """The same for attention by distances, in Triton. Raises ImportError without it."""
    from bertbatch.engines.fused_relative import RelativeLayout

    return RelativeLayout(lengths, total, device)


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


def position_padding(model: Any, pad_id: int) -> int:
    """The id after which a model with an offset counts positions: its config's, or another."""
    return getattr(getattr(model.base_model, "embeddings", None), "padding_idx", None) or pad_id


class Packing:
    """What a transformers model that accepts packed sequences is told of each batch.

    It is called with ids and position_ids [1, total], and `layout`. Before that, `batch` tells it
    the same. `encoder` has the layers; `relative`: attention depends on distances.
    """

    def __init__(self, model: Any, one_token: bool, longest: int):
        """Changes the model, whose rows have at most `longest` tokens.

        `one_token`: its head reads one hidden state of each sequence. That is of the first token,
        or the mean over all where the model's config says so. Raises ValueError if it cannot be.
        """
        base = model.base_model
        found = (m for name, m in base.named_children() if name in ("encoder", "transformer"))
        self.encoder: Any = next(found, base)
        self._layout: Any = None
        self._starts: Tensor | None = None
        self._used = 0
        pooling = getattr(model.config, "classifier_pooling", None)
        self._mean = pooling in ("mean", "late")
        rounded = -(-longest // ALIGNED) * ALIGNED
        self.relative = replace_attention(model, self._attend, rounded)
        if not self.relative:
            if not getattr(base, "_supports_attention_backend", False):
                raise ValueError("its attention is its own, not by transformers' interface")
            model.set_attn_implementation(NAME)
        if not one_token:
            return
        if pooling == "late":  # the head reads all tokens, and its logits are averaged
            model.classifier.register_forward_hook(lambda _, __, output: self._one(output))
            return
        pooler = getattr(base, "pooler", None)
        inside = self.encoder if pooler is not None else base  # the pooler reads what this gives
        inside.register_forward_hook(self._of_output)
        if inside is base and pooler is not None:
            pooler.register_forward_pre_hook(lambda _, given: (self._one(given[0]), *given[1:]))

    def batch(self, layout: Any, starts: Tensor, used: int) -> None:
        """The next batch: where its sequences start, int64 [rows], and how many tokens they are.

        The tokens after these fill the batch up.
        """
        self._layout, self._starts, self._used = layout, starts, used

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Any) -> Tensor:
        answer: Tensor = self._layout.attend(query, key, value, scale, bias=bias)
        return answer

    def _of_output(self, encoder: Any, args: Any, output: Any) -> Any:
        output.last_hidden_state = self._one(output.last_hidden_state)
        return output

    def _one(self, hidden: Tensor) -> Tensor:
        """One hidden state [rows, 1, size] for each sequence, of all tokens' [1, total, size]."""
        if not self._mean:
            return hidden[0, self._starts][:, None]
        return means(hidden[0, : self._used], self._starts)[:, None]


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """Called by transformers with query, key and value [1, heads, total, size]."""
    if "layout" not in kwargs:
        raise ValueError("its encoder does not pass on what packed batches need")
    if kwargs.get("is_causal", getattr(module, "is_causal", False)):
        raise ValueError("its tokens attend to earlier ones only")
    several = query.shape[1] // key.shape[1]  # heads of the query for each of the keys
    if several > 1:
        key, value = (x.repeat_interleave(several, 1) for x in (key, value))
    packed = (x[0].transpose(0, 1) for x in (query, key, value))
    window = kwargs.get("sliding_window")  # it counts the query itself
    reach = None if window is None else window - 1
    return kwargs["layout"].attend(*packed, kwargs.get("scaling"), reach)[None], None


def _take(x: Tensor, group: Group) -> Tensor:
    if group.index is None:
        return x[group.start : group.start + group.rows * group.length]
    return x.reshape(len(x), -1).index_select(0, group.index)


AttentionInterface.register(NAME, _attend)
# Without a mask function transformers would silently leave padding unmasked. A packed batch has no
# padding to mask: its layout says where sequences end.
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
