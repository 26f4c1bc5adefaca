"""Texts to flat token ids and offsets, exactly as transformers would encode each text.

The Rust tokenizer is called directly, without padding and without Python objects for
masks and types: a single text's segment ids are zero in every model of the family.
Tokenizers that exist in Python only (some Japanese ones) go through transformers.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np

from bertbatch.batching import twins
from bertbatch.errors import JobError
from bertbatch.model import ModelSpec, locate, tokenizer_hash

# Characters: of longer texts no more is encoded than is needed, and never more than the last.
HUGE = (1 << 16, 1 << 18, 1 << 20)


@dataclass(frozen=True)
class Tokens:
    """Token ids of n texts, special tokens included.

    ids: int32 [total], offsets: int64 [n + 1], truncated: bool [n], unknown: int32 [n]
    counts unknown tokens, content: int32 [n] counts tokens that are not special.
    seconds: int64 [n], where the second text of a pair starts; the length for a single text.
    typed: whether the tokenizer tells a model of it by token types.
    twins: int64 [n], the first text with the same ids. watched: bool [n], the rows whose
    attention statistics are wanted.
    """

    ids: np.ndarray
    offsets: np.ndarray
    seconds: np.ndarray
    truncated: np.ndarray
    unknown: np.ndarray
    content: np.ndarray
    typed: bool
    twins: np.ndarray
    watched: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


@lru_cache(maxsize=1)
def get_tokenizer(spec: ModelSpec) -> "Tokenizer":
    """This process's tokenizer for a model. Raises JobError if it cannot be loaded."""
    return Tokenizer(spec)


class Tokenizer:
    def __init__(self, spec: ModelSpec):
        from transformers import AutoTokenizer

        folder, _ = locate(spec.name, spec.revision)
        where = f"model.name {spec.name}"
        if tokenizer_hash(folder) != spec.tokenizer:
            raise JobError(f"{where}: {folder} on this node has another tokenizer than the driver")
        try:
            self.python: Any = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # transformers raises whatever a tokenizer's file provokes
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise JobError(f"{where}: its tokenizer cannot be loaded: {reason}") from error
        self._max_length = spec.max_length
        self._pad_id = spec.pad_id
        self._rust: Any = getattr(self.python, "backend_tokenizer", None)
        if self._rust is not None:
            self._rust.no_padding()
            self._rust.enable_truncation(spec.max_length, direction=self.python.truncation_side)

    def encode(self, texts: list[str], seconds: list[str] | None = None) -> Tokens:
        """Tokens of each text, or pair of texts, truncated to the model's max_length."""
        starts: list[int] | None = None
        if self._rust is not None:
            inputs: list[Any]
            if seconds is None:
                inputs = [self._end_that_counts(text) for text in texts]
                shortened = [len(i) < len(text) for i, text in zip(inputs, texts, strict=True)]
            else:
                # Which text of a pair is cut by how much depends on both: they stay whole.
                inputs, shortened = list(zip(texts, seconds, strict=True)), [False] * len(texts)
            encodings = self._rust.encode_batch_fast(inputs)
            ids = [encoding.ids for encoding in encodings]
            flags = [bool(e.overflowing) or s for e, s in zip(encodings, shortened, strict=True)]
            truncated = np.array(flags, bool)
            if seconds is not None:
                starts = [_second(e.type_ids, e.sequence_ids) for e in encodings]
        else:
            ids, truncated, starts = self._encode_in_python(texts, seconds)
        # Without special tokens an empty text has no tokens at all; padded, it has one.
        ids = [row or [self._pad_id] for row in ids]
        offsets = np.zeros(len(ids) + 1, np.int64)
        np.cumsum([len(row) for row in ids], out=offsets[1:])
        flat = np.fromiter(chain.from_iterable(ids), np.int32, int(offsets[-1]))
        unknown = np.zeros(len(ids), np.int32)
        if len(ids) and self.python.unk_token_id is not None:
            is_unknown = flat == self.python.unk_token_id
            unknown = np.add.reduceat(is_unknown, offsets[:-1], dtype=np.int32)
        special = self.python.num_special_tokens_to_add(pair=starts is not None)
        content = np.maximum(np.diff(offsets) - special, 0).astype(np.int32)
        split = np.diff(offsets) if starts is None else np.array(starts, np.int64)
        return Tokens(
            *(flat, offsets, split, truncated, unknown, content),
            "token_type_ids" in self.python.model_input_names,
            *(twins(flat, offsets, split), np.zeros(len(ids), bool)),
        )

    def _end_that_counts(self, text: str) -> str:
        """A huge text's beginning (or end, if that is kept), encoded as the whole would be.

        Encoding takes 200 bytes of memory a character, also for what is cut off. Where a text is
        cut changes the tokens nearby, so enough is kept to fill the model more than twice. Only a
        text that is nearly nothing but blanks or one endless word is cut without that.
        """
        part = text
        for size in HUGE:
            if len(text) <= size:
                return text
            part = text[-size:] if self.python.truncation_side == "left" else text[:size]
            if len(self._rust.encode(part).overflowing) > 1:
                break
        return part

    def _encode_in_python(
        self, texts: list[str], seconds: list[str] | None
    ) -> tuple[list[list[int]], np.ndarray, list[int] | None]:
        if not texts:
            return [], np.zeros(0, bool), None if seconds is None else []
        plain = [texts, *([seconds] if seconds is not None else [])]
        lists = [
            self.python(t, add_special_tokens=False, verbose=False)["input_ids"] for t in plain
        ]
        whole = [sum(map(len, rows)) for rows in zip(*lists, strict=True)]
        room = self._max_length - self.python.num_special_tokens_to_add(pair=seconds is not None)
        truncated = np.array([length > room for length in whole])
        encoded = self.python(
            texts, seconds, truncation=True, max_length=self._max_length, return_token_type_ids=True
        )
        starts = None
        if seconds is not None:
            starts = [_second(types, types) for types in encoded["token_type_ids"]]
        return encoded["input_ids"], truncated, starts


def _second(types: list[int], sequences: list[int | None]) -> int:
    """Where the second text of a pair starts, by the token types if they tell."""
    by = types if 1 in types else sequences
    return by.index(1) if 1 in by else len(types)
