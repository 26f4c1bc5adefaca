"""Texts to flat token ids and offsets, exactly as transformers would encode each text.

The Rust tokenizer is called directly, without padding and without Python objects for masks,
and for token types only where they are not all zero. Tokenizers that exist in Python only
(some Japanese ones) go through transformers.
"""

from collections.abc import Iterable
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np

from bertbatch.errors import JobError
from bertbatch.model.checkpoint import WITHOUT_VOCABULARY, as_job_errors
from bertbatch.model.spec import ModelSpec, locate, tokenizer_hash
from bertbatch.model.tokens import Padding, Tokens, first_duplicate

# Characters: of longer texts no more is encoded than is needed, and never more than the last.
HUGE = (1 << 16, 1 << 18, 1 << 20)

UNKNOWN_SHARE = 0.15  # of the tokens, above which a vocabulary plainly does not fit


@lru_cache(maxsize=1)
def get_tokenizer(spec: ModelSpec) -> "Tokenizer":
    """This process's tokenizer for a model. Raises JobError if it cannot be loaded."""
    return Tokenizer(spec)


class Tokenizer:
    def __init__(self, spec: ModelSpec):
        from transformers import AutoTokenizer

        folder, _ = locate(spec.name, spec.revision)
        self.where = where = f"model.name {spec.name}"
        if tokenizer_hash(folder) != spec.tokenizer:
            raise JobError(f"{where}: {folder} on this node has another tokenizer than the driver")
        self._max_length = spec.max_length
        self._pad_id = spec.pad_id
        with as_job_errors(where, f"the tokenizer in {folder} cannot be loaded", folder):
            self.python: Any = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            self._rust: Any = getattr(self.python, "backend_tokenizer", None)
            if self._rust is not None:
                self._rust.no_padding()
                self._rust.encode_special_tokens = self.python.split_special_tokens
            self._gives_types = "token_type_ids" in self.python.model_input_names
            # The template of a single text gives each text the same types, whatever it says.
            self.types_matter = self._gives_types and any(self.python("a")["token_type_ids"])
            vocabulary = set(self.python.get_vocab().values())
            words = vocabulary - set(self.python.all_special_ids)
        self.vocabulary = max(vocabulary, default=-1) + 1
        named = type(self.python).__name__.removesuffix("Fast")
        if not words and named not in WITHOUT_VOCABULARY:
            raise JobError(
                f"{where}: the tokenizer in {folder} knows no token but special ones, so "
                "every word would be unknown; is its vocabulary missing (vocab.txt, …)?"
            )

    @property
    def padding(self) -> Padding:
        """How rows are filled up: with the model's own padding id, on the tokenizer's side."""
        left = self.python.padding_side == "left"
        return Padding(self._pad_id, self.python.pad_token_type_id, left)

    def encode(
        self, texts: list[str], pair_texts: list[str] | None = None, max_length: int | None = None
    ) -> Tokens:
        """Tokens of each text, or pair of texts, truncated; without a length to the model's."""
        self._limit(max_length or self._max_length)
        rows: list[Any] = texts if pair_texts is None else list(zip(texts, pair_texts, strict=True))
        number = {row: i for i, row in enumerate(dict.fromkeys(rows))}
        if not rows or 2 * len(number) > len(rows):
            return self._encode(texts, pair_texts)
        # So many repeat that it pays to encode each once.
        distinct = list(number)
        if pair_texts is None:
            once = self._encode(distinct, None)
        else:
            once = self._encode([first for first, _ in distinct], [last for _, last in distinct])
        return once.repeated(np.array([number[row] for row in rows], np.int64))

    def _encode(self, texts: list[str], pair_texts: list[str] | None) -> Tokens:
        starts: list[int] | None = None
        types: Iterable[list[int]] | None = None
        if self._rust is not None:
            inputs: list[Any]
            if pair_texts is None:
                inputs = [self._end_that_counts(text) for text in texts]
                shortened = [len(i) < len(text) for i, text in zip(inputs, texts, strict=True)]
            else:
                # Which text of a pair is cut by how much depends on both: they stay whole.
                inputs, shortened = list(zip(texts, pair_texts, strict=True)), [False] * len(texts)
            encodings = self._rust.encode_batch_fast(inputs)
            ids = [encoding.ids for encoding in encodings]
            flags = [bool(e.overflowing) or s for e, s in zip(encodings, shortened, strict=True)]
            truncated = np.array(flags, bool)
            if pair_texts is not None:
                starts = [_second(e.type_ids, e.sequence_ids) for e in encodings]
            if self._gives_types and (self.types_matter or pair_texts is not None):
                types = [encoding.type_ids for encoding in encodings]
        else:
            ids, truncated, starts, types = self._encode_in_python(texts, pair_texts)
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
            self._flat_types(types, len(flat)),
            *(first_duplicate(flat, offsets, split), np.zeros(len(ids), bool)),
        )

    def _limit(self, max_length: int) -> None:
        """Truncates to so many tokens from here on."""
        self._truncated_to = max_length
        if self._rust is not None:
            self._rust.enable_truncation(max_length, direction=self.python.truncation_side)

    def _flat_types(self, types: Iterable[list[int]] | None, total: int) -> np.ndarray | None:
        if not self._gives_types:
            return None
        if types is None:
            return np.zeros(total, np.int8)
        return np.fromiter(chain.from_iterable(row or [0] for row in types), np.int8, total)

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
        self, texts: list[str], pair_texts: list[str] | None
    ) -> tuple[list[list[int]], np.ndarray, list[int] | None, list[list[int]]]:
        if not texts:
            return [], np.zeros(0, bool), None if pair_texts is None else [], []
        plain = [texts, *([pair_texts] if pair_texts is not None else [])]
        lists = [
            self.python(t, add_special_tokens=False, verbose=False)["input_ids"] for t in plain
        ]
        whole = [sum(map(len, rows)) for rows in zip(*lists, strict=True)]
        room = self._truncated_to - self.python.num_special_tokens_to_add(
            pair=pair_texts is not None
        )
        truncated = np.array([length > room for length in whole])
        encoded = self.python(
            texts,
            pair_texts,
            truncation=True,
            max_length=self._truncated_to,
            return_token_type_ids=True,
        )
        starts = None
        if pair_texts is not None:
            starts = [_second(types, types) for types in encoded["token_type_ids"]]
        return encoded["input_ids"], truncated, starts, encoded["token_type_ids"]


def _second(types: list[int], sequences: list[int | None]) -> int:
    """Where the second text of a pair starts, by the token types if they tell."""
    by = types if 1 in types else sequences
    return by.index(1) if 1 in by else len(types)


def unknown_words(share: float, model: str) -> str:
    """What to say of a text with more than UNKNOWN_SHARE unknown tokens."""
    return (
        f"{100 * share:.0f} % of the tokens are unknown to {model}: its vocabulary does not fit "
        "this text; use a model made for the text's language"
    )
