"""Rows of token ids as a tokenizer makes them: special tokens around texts that are cut to fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertbatch.model.tokens import ranges


@dataclass(frozen=True)
class Encoded:
    """Rows of token ids end to end: the arrays of `Tokens` that a template decides.

    `source` int64 [total]: the place of each token among the texts' own; −1 for special ones.
    """

    ids: np.ndarray
    offsets: np.ndarray
    truncated: np.ndarray
    pair_starts: np.ndarray | None
    types: np.ndarray
    source: np.ndarray | None = None

    def begins_with(self, other: "Encoded") -> bool:
        """Whether the other's rows are the same as the first of these."""
        count, total = len(other.truncated), len(other.ids)
        pairs = [
            (self.ids[:total], other.ids),
            (self.offsets[: count + 1], other.offsets),
            (self.truncated[:count], other.truncated),
            (self.types[:total], other.types),
        ]
        if self.pair_starts is not None and other.pair_starts is not None:
            pairs.append((self.pair_starts[:count], other.pair_starts))
        return all(np.array_equal(ours, theirs) for ours, theirs in pairs)


@dataclass(frozen=True)
class Part:
    """What each row has of texts whose ids lie end to end: `counts` tokens from `begins` on."""

    ids: np.ndarray
    begins: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Template:
    """Token ids before, between, after the texts; the type of each of these and of each text.

    A single text has two lists of special tokens, a pair three.
    """

    special: tuple[np.ndarray, ...]
    special_types: tuple[np.ndarray, ...]
    text_types: tuple[int, ...]

    @classmethod
    def of(cls, rust: Any, pair: bool) -> "Template | None":
        """A tokenizer's template, seen from what it makes of short texts; None if it is unusual.

        The tokenizer must not truncate.
        """
        encoding = rust.encode("a", "a") if pair else rust.encode("a")
        ids, types = np.array(encoding.ids, np.int32), np.array(encoding.type_ids, np.int8)
        owner = encoding.sequence_ids
        special: list[np.ndarray] = []
        special_types: list[np.ndarray] = []
        text_types = []
        last = 0
        for sequence in range(1 + pair):
            own = [i for i, of in enumerate(owner) if of == sequence]
            if not own or own != list(range(own[0], own[-1] + 1)) or own[0] < last:
                return None
            special.append(ids[last : own[0]])
            special_types.append(types[last : own[0]])
            text_types.append(int(types[own[0]]))
            last = own[-1] + 1
        special.append(ids[last:])
        special_types.append(types[last:])
        made = cls(tuple(special), tuple(special_types), tuple(text_types))
        return made if made.count and made._is_usual() else None

    @classmethod
    def of_python(cls, tokenizer: Any, pair: bool) -> "Template | None":
        """The same of a tokenizer of transformers, also of one in Python."""
        texts = ("a", "a") if pair else ("a",)
        made = tokenizer(*texts, return_token_type_ids=True)
        ids, types = list(made["input_ids"]), list(made["token_type_ids"])
        plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
        size = len(plain)
        special, special_types, text_types = [], [], []
        last = 0
        for _ in texts:
            starts = (i for i in range(last, len(ids)) if ids[i : i + size] == plain)
            start = next(starts, None)
            if start is None or not size:
                return None
            special.append(np.array(ids[last:start], np.int32))
            special_types.append(np.array(types[last:start], np.int8))
            text_types.append(types[start])
            last = start + size
        special.append(np.array(ids[last:], np.int32))
        special_types.append(np.array(types[last:], np.int8))
        found = cls(tuple(special), tuple(special_types), tuple(text_types))
        return found if found.count and found._is_usual() else None

    @property
    def count(self) -> int:
        """Special tokens of a row."""
        return sum(map(len, self.special))

    def _is_usual(self) -> bool:
        """Whether the second text of a pair starts where type 1 starts, if there is such a type."""
        if len(self.text_types) == 1:
            return True
        before = np.concatenate([*self.special_types[:2], self.text_types[:1]])
        return 1 not in before and (self.text_types[1] == 1 or 1 not in self.special_types[2])

    def fill(self, parts: Sequence[Part], truncated: np.ndarray) -> Encoded:
        """Rows of texts, or of first and second texts; `truncated`: bool [rows]."""
        lengths = self.count + np.sum([part.counts for part in parts], axis=0)
        ends = np.cumsum(lengths)
        ids = np.empty(int(ends[-1]) if len(ends) else 0, np.int32)
        types = np.zeros(len(ids), np.int8)
        source = np.full(len(ids), -1)
        at = ends - lengths
        starts = []
        for number, tokens in enumerate(self.special):
            for token, type_ in zip(tokens, self.special_types[number], strict=True):
                ids[at], types[at] = token, type_
                at = at + 1
            if number < len(parts):
                part = parts[number]
                there, here = ranges(at, part.counts), ranges(part.begins, part.counts)
                ids[there], source[there] = part.ids[here], here
                types[there] = self.text_types[number]
                starts.append(at)
                at = at + part.counts
        pair_starts = None
        if len(parts) == 2:
            pair_starts = starts[1] - (ends - lengths)
            if 1 not in self.special_types[2]:  # an empty second text then starts nowhere
                pair_starts = np.where(parts[1].counts > 0, pair_starts, lengths)
        return Encoded(
            ids=ids,
            offsets=np.append(0, ends),
            truncated=truncated,
            pair_starts=pair_starts,
            types=types,
            source=source,
        )


def cut(
    texts: Sequence[tuple[np.ndarray, np.ndarray]], room: int, left: bool
) -> tuple[list[Part], np.ndarray]:
    """The parts of texts, or of first and second texts, that fit; which rows have lost tokens.

    A text's tokens are given as ids end to end and offsets. Truncated as `tokenizers` does, the
    longest first; `left`: from the beginning.
    """
    full = [np.diff(offsets) for _, offsets in texts]
    kept = [np.minimum(full[0], room)] if len(full) == 1 else _longest_first(full, room)
    parts = [
        Part(ids, offsets[1:] - count if left else offsets[:-1], count)
        for (ids, offsets), count in zip(texts, kept, strict=True)
    ]
    return parts, np.sum(full, axis=0) > room


def _longest_first(full: Sequence[np.ndarray], room: int) -> list[np.ndarray]:
    """How many tokens of each text of a pair are kept, so that both together fit."""
    first, second = full
    shorter = np.minimum(first, second)
    longer = np.maximum(shorter, room - shorter)
    halves = shorter + longer > room
    shorter = np.where(halves, room // 2, shorter)
    longer = np.where(halves, room // 2 + room % 2, longer)
    fits = first + second <= room
    swapped = first > second
    return [
        np.where(fits, first, np.where(swapped, longer, shorter)),
        np.where(fits, second, np.where(swapped, shorter, longer)),
    ]
