"""Encodes texts as flat token ids, exactly as transformers would encode each text.

The Rust tokenizer is called directly, without padding and without Python objects for masks; token
types are read only where they are not all zero. Tokenizers that exist in Python only (some Japanese
ones) go through transformers.
"""

import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np

from bertbatch.errors import JobError
from bertbatch.model.adapter import model_files
from bertbatch.model.checkpoint import WITHOUT_VOCABULARY, as_job_errors
from bertbatch.model.content import Content, content_of, joined_content, portions
from bertbatch.model.locate import locate
from bertbatch.model.spans import Spans, spans_of
from bertbatch.model.spec import ModelSpec, tokenizer_hash
from bertbatch.model.template import Encoded, Template, cut
from bertbatch.model.tokens import Padding, Tokens, first_duplicate
from bertbatch.model.word_cache import WordCache

log = logging.getLogger("bertbatch")

COMPARED_ROWS = 64
# Characters: of a longer text only as many are encoded as are needed, at most the last number.
HUGE = (1 << 16, 1 << 18, 1 << 20)

UNKNOWN_SHARE = 0.15  # of the tokens: above it, a vocabulary does not fit the texts


@lru_cache(maxsize=8)  # models of a job
def get_tokenizer(spec: ModelSpec) -> "Tokenizer":
    """This process's tokenizer for a model. Raises JobError if it cannot be loaded."""
    return Tokenizer(spec)


class Tokenizer:
    def __init__(self, spec: ModelSpec):
        from transformers import AutoTokenizer
        from transformers.tokenization_python import PythonBackend

        root, _ = locate(spec.name, spec.revision, spec.storage_options)
        self.where = where = f"model.name {spec.name}"
        folder = model_files(root, where).tokenizer
        if tokenizer_hash(folder) != spec.tokenizer:
            raise JobError(
                f"{where}: {folder} on this node has a different tokenizer than on the driver; "
                "copy the same folder to every node"
            )
        self.max_length = spec.max_length
        self._pad_id = spec.pad_id
        self._gives_spans = spec.asked.gives == "tokens"
        with as_job_errors(where, f"the tokenizer in {folder} cannot be loaded", folder):
            self.python: Any = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            self._words: WordCache | None = None
            self._templates: dict[bool, Template | None] = {}
            self._compared = False  # whether ids by words were found to be the same
            self._rust: Any = getattr(self.python, "backend_tokenizer", None)
            if self._rust is not None:
                self._rust.no_padding()
                self._rust.encode_special_tokens = self.python.split_special_tokens
                self._rust.no_truncation()
                self._words = WordCache.of(self._rust)
                self._templates = {
                    pair: Template.of(self._rust, pair) for pair in (False, True) if self._words
                }
            # Then what is put around a text follows from its ids, and it is tokenized once.
            own = getattr(type(self.python), "_encode_plus", None)
            self._ids_suffice = own is PythonBackend._encode_plus
            self._gives_types = "token_type_ids" in self.python.model_input_names
            # A single text gets the same types whatever its words are.
            self.types_matter = self._gives_types and any(self.python("a")["token_type_ids"])
            vocabulary = set(self.python.get_vocab().values())
            words = vocabulary - set(self.python.all_special_ids)
        if self._gives_spans and self._rust is None:
            raise JobError(
                f"{where}: {type(self.python).__name__} does not tell where its tokens are in a "
                "text, which model.task token_classification needs; save the tokenizer as "
                "tokenizer.json, or use another model"
            )
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
        """The tokens of each text or pair, truncated to `max_length`, by default the model's."""
        self._limit(max_length or self.max_length)
        rows: list[Any] = texts if pair_texts is None else list(zip(texts, pair_texts, strict=True))
        number = {row: i for i, row in enumerate(dict.fromkeys(rows))}
        if not rows or 2 * len(number) > len(rows):
            return self._encode(texts, pair_texts)
        # At least half are repeats: each is encoded once.
        distinct = list(number)
        if pair_texts is None:
            once = self._encode(distinct, None)
        else:
            once = self._encode([first for first, _ in distinct], [last for _, last in distinct])
        return once.repeated(np.array([number[row] for row in rows], np.int64))

    @property
    def cuts_left(self) -> bool:
        """Whether a text that is too long loses its beginning."""
        return bool(self.python.truncation_side == "left")

    def template(self, pair: bool) -> Template:
        """The special tokens around texts. Raises JobError if they cannot be told."""
        made = self._templates.get(pair)
        if made is None:
            if self._rust is not None:
                self._rust.no_truncation()
            made = Template.of_python(self.python, pair)
            if made is None:
                raise JobError(
                    f"{self.where}: its tokenizer puts no special tokens around a text, or unusual "
                    "ones, so that texts cannot be cut into windows, or paired with hypotheses"
                )
            self._templates[pair] = made
        return made

    def content(self, texts: list[str]) -> Content:
        """The tokens of whole texts, however long, without special ones."""
        if self._rust is None:
            found = [
                self.python(t, add_special_tokens=False, verbose=False)["input_ids"] for t in texts
            ]
            return content_of(found)
        self._rust.no_truncation()
        if self._words is not None and not self._gives_spans:
            by_words = self._words.encode(texts)
            if by_words and self._compared:
                return Content(*by_words)
            if by_words:
                self._compared = len(texts) >= COMPARED_ROWS
                plain = self._plain_content(texts[:COMPARED_ROWS])
                if np.array_equal(by_words[0][: len(plain.ids)], plain.ids):
                    return Content(*by_words)
                log.warning("%s: words are tokenized plainly, since ids differ", self.where)
                self.tokenize_plainly()
        return self._plain_content(texts)

    def _plain_content(self, texts: list[str]) -> Content:
        encode = self._rust.encode_batch if self._gives_spans else self._rust.encode_batch_fast
        pieces: list[Content] = []
        for some in portions(texts, HUGE[-1]):
            encodings = encode(some, add_special_tokens=False)
            piece = content_of([encoding.ids for encoding in encodings])
            if self._gives_spans:
                spans = spans_of(encodings, some, [0] * len(some), self.python, least=0)
                piece = replace(piece, spans=spans)
            pieces.append(piece)
        return joined_content(pieces)

    def ends_that_count(self, texts: list[str]) -> tuple[list[str], list[int]]:
        """Texts without what is cut off however they are tokenized, and how much that is."""
        if self._rust is None:
            return texts, [0] * len(texts)
        self._limit(self.max_length)
        short = [self._end_that_counts(text) for text in texts]
        return short, [len(b) - len(a) for a, b in zip(short, texts, strict=True)]

    def _encode(self, texts: list[str], pair_texts: list[str] | None) -> Tokens:
        whole, shortened = texts, [0] * len(texts)
        if self._rust is not None and pair_texts is None:
            # How much is cut off each text of a pair depends on both: they stay whole.
            texts = [self._end_that_counts(text) for text in texts]
            shortened = [len(b) - len(a) for a, b in zip(texts, whole, strict=True)]
        spans = None
        if self._gives_spans:
            encoded, encodings = self._encode_plainly(texts, None)
            left_out = shortened if self.cuts_left else [0] * len(texts)
            spans = spans_of(encodings, whole, left_out, self.python)
        else:
            encoded = (
                self._encode_by_words(texts, pair_texts)
                or self._encode_plainly(texts, pair_texts)[0]
            )
        encoded = replace(encoded, truncated=encoded.truncated | np.array(shortened, bool))
        return self.tokens_of(encoded, pair_texts is not None, spans)

    def tokens_of(self, encoded: Encoded, pair: bool, spans: Spans | None = None) -> Tokens:
        """What else is known of rows of token ids, single texts or pairs."""
        flat, offsets = encoded.ids, encoded.offsets
        count = len(offsets) - 1
        unknown = np.zeros(count, np.int32)
        if count and self.python.unk_token_id is not None:
            is_unknown = flat == self.python.unk_token_id
            unknown = np.add.reduceat(is_unknown, offsets[:-1], dtype=np.int32)
        special = self.python.num_special_tokens_to_add(pair=pair)
        content = np.maximum(np.diff(offsets) - special, 0).astype(np.int32)
        split = np.diff(offsets) if encoded.pair_starts is None else encoded.pair_starts
        return Tokens(
            ids=flat,
            offsets=offsets,
            pair_starts=split,
            truncated=encoded.truncated,
            unknown=unknown,
            content=content,
            types=encoded.types if self._gives_types else None,
            first_duplicate=first_duplicate(flat, offsets, split),
            sampled=np.zeros(count, bool),
            spans=spans,
        )

    def tokenize_plainly(self) -> None:
        """From here on no text is taken apart into words first."""
        self._words = None

    def _encode_by_words(self, texts: list[str], pair_texts: list[str] | None) -> Encoded | None:
        """Much faster, where the tokenizer allows it, with the same ids."""
        template = self._templates.get(pair_texts is not None)
        if self._words is None or template is None or self._truncated_to <= template.count:
            return None
        self._rust.no_truncation()
        columns = [texts] if pair_texts is None else [texts, pair_texts]
        found = [self._words.encode(column) for column in columns]
        self._limit(self._truncated_to)
        by_words = [each for each in found if each]
        if len(by_words) < len(columns):
            return None
        parts, cut_off = cut(by_words, self._truncated_to - template.count, self.cuts_left)
        encoded = template.fill(parts, cut_off)
        if not self._compared and texts:
            self._compared = True
            some = [column[:COMPARED_ROWS] for column in columns]
            plain, _ = self._encode_plainly(some[0], some[1] if len(some) > 1 else None)
            if not encoded.begins_with(plain):
                log.warning("%s: words are tokenized plainly, since ids differ", self.where)
                self.tokenize_plainly()
                return None
        return encoded

    def _encode_plainly(
        self, texts: list[str], pair_texts: list[str] | None
    ) -> tuple[Encoded, list[Any]]:
        """The rows, and the encodings behind them, if the tokenizer has such."""
        encodings: list[Any] = []
        starts: list[int] | None = None
        types: Iterable[list[int]] | None = None
        if self._rust is not None:
            pairs = pair_texts is not None and list(zip(texts, pair_texts, strict=True))
            # The fast way finds no offsets.
            encode = self._rust.encode_batch if self._gives_spans else self._rust.encode_batch_fast
            encodings = encode(pairs or texts)
            ids = [encoding.ids for encoding in encodings]
            truncated = np.array([bool(encoding.overflowing) for encoding in encodings], bool)
            if pair_texts is not None:
                starts = [_second(e.type_ids, e.sequence_ids) for e in encodings]
            if self.types_matter or pair_texts is not None:
                types = [encoding.type_ids for encoding in encodings]
        else:
            ids, truncated, starts, types = self._encode_in_python(texts, pair_texts)
        # Without special tokens an empty text has no tokens at all; padded, it has one.
        ids = [row or [self._pad_id] for row in ids]
        offsets = np.zeros(len(ids) + 1, np.int64)
        np.cumsum([len(row) for row in ids], out=offsets[1:])
        total = int(offsets[-1])
        flat_types = np.zeros(total, np.int8)
        if types is not None:
            flat_types = np.fromiter(
                chain.from_iterable(row or [0] for row in types), np.int8, total
            )
        encoded = Encoded(
            ids=np.fromiter(chain.from_iterable(ids), np.int32, total),
            offsets=offsets,
            truncated=truncated,
            pair_starts=None if starts is None else np.array(starts, np.int64),
            types=flat_types,
        )
        return encoded, encodings

    def _limit(self, max_length: int) -> None:
        """Truncates texts to this many tokens from here on."""
        self._truncated_to = max_length
        if self._rust is not None:
            self._rust.enable_truncation(max_length, direction=self.python.truncation_side)

    def _end_that_counts(self, text: str) -> str:
        """A huge text's beginning (or end, if that is kept), encoded as the whole would be.

        Encoding takes 200 bytes of memory for each character, also for those that are cut off.
        Cutting a text changes the tokens near the cut, so enough is kept to fill the model more
        than twice. A text that cannot, such as blanks or one endless word, is cut at the last size.
        """
        part = text
        for size in HUGE:
            if len(text) <= size:
                return text
            part = text[-size:] if self.cuts_left else text[:size]
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
        cut = {"truncation": True, "max_length": self._truncated_to, "return_token_type_ids": True}
        if self._ids_suffice:
            rows = [self.python.prepare_for_model(*ids, **cut) for ids in zip(*lists, strict=True)]
            ids, types = ([row[key] for row in rows] for key in ("input_ids", "token_type_ids"))
        else:
            encoded = self.python(texts, pair_texts, **cut)
            ids, types = encoded["input_ids"], encoded["token_type_ids"]
        starts = None if pair_texts is None else [_second(each, each) for each in types]
        return ids, truncated, starts, types


def _second(types: list[int], sequences: list[int | None]) -> int:
    """Where the second text of a pair starts, by the token types if there are two."""
    by = types if 1 in types else sequences
    return by.index(1) if 1 in by else len(types)


def unknown_words(share: float, model: str) -> str:
    """The warning for texts with more than UNKNOWN_SHARE unknown tokens."""
    return (
        f"{100 * share:.0f} % of the tokens are unknown to {model}: its vocabulary does not fit "
        "these texts; use a model for their language"
    )
