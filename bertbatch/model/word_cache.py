"""WordPiece token ids of text, from those of its words: each distinct word is tokenized once.

Texts are cut where the tokenizer itself always begins a new word, whatever is around: at ASCII
whitespace and punctuation, around common Chinese characters. The pieces between are tokenized by
the tokenizer, so that every rule about accents, controls and unknown words stays its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np
import pyarrow as pa

from bertbatch.model.tokens import ranges

MOST_WORDS = 300_000  # that are kept, some 50 MB
TOGETHER = 1000  # new pieces that are tokenized as one text
MOST_NAMES = 100  # special tokens to look for in every text
FEW_BYTES = 1 << 12  # of text: how they are tokenized does not matter
LONGEST = 64  # characters of a piece that is kept: longer ones rarely come again

_BLANKS = b" \t\n\r"
_PUNCTUATION = bytes(c for c in range(33, 127) if not chr(c).isalnum())
_CHINESE = bytes(range(0xE5, 0xEA))  # first of three bytes: U+5000 to U+9FFF

_BEFORE, _AFTER, _IS_CHINESE = 1, 2, 4  # what a byte means for cutting
_MEANS = bytes(
    _BEFORE * (byte in _BLANKS + _PUNCTUATION)
    | _AFTER * (byte in _PUNCTUATION)
    | _IS_CHINESE * (byte in _CHINESE)
    for byte in range(256)
)


@dataclass
class WordCache:
    """The token ids of the words seen so far.

    `chinese`: whether Chinese characters are words. `alike`: whether case and blanks around ASCII
    words do not matter, for no added word is hidden among them. The tokenizer must not truncate
    while it is used here.
    """

    rust: Any
    chinese: bool
    whole: tuple[str, ...]  # what is a token as it stands, though it would be cut
    lowercase: bool
    alike: bool
    _known: tuple[dict[str, int], int] = ({}, 0)  # what it began with
    _numbers: dict[str, int] = field(default_factory=dict)
    _ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    _ends: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))

    @classmethod
    def of(cls, rust: Any) -> "WordCache | None":
        """The cache for a tokenizer; None for one whose words are found in another way."""
        parts = (rust.normalizer, rust.pre_tokenizer, rust.model)
        kinds = tuple(type(part).__name__ for part in parts)
        if kinds != ("BertNormalizer", "BertPreTokenizer", "WordPiece"):
            return None
        added = list(rust.get_added_tokens_decoder().values())
        whole = [token for token in added if _is_cut(token.content)]
        sought = [
            # Some are looked for in what the normalizer makes of the text.
            rust.normalizer.normalize_str(token.content) if token.normalized else token.content
            for token in added
        ]
        if (
            len(whole) > MOST_NAMES
            # What is around such a token decides.
            or any(token.single_word or token.lstrip or token.rstrip for token in added)
            or any(any(map(str.isspace, content)) for content in sought)
            or any(t.normalized and _is_cut(c) for t, c in zip(added, sought, strict=True))
        ):
            return None
        cache = cls(
            rust,
            chinese=rust.normalizer.handle_chinese_chars,
            whole=tuple(token.content for token in whole),
            lowercase=rust.normalizer.lowercase,
            alike=len(whole) == len(added),
        )
        if cache.alike:
            cache._know_vocabulary()
        return cache

    def _know_vocabulary(self) -> None:
        """Plain words that are tokens need not be tokenized."""
        most = self.rust.model.max_input_chars_per_word
        words: dict[str, int] = {}
        for word, id_ in self.rust.get_vocab(with_added_tokens=False).items():
            as_it_stands = word == word.lower() or not self.lowercase
            if as_it_stands and word.isascii() and word.isalnum() and len(word) <= most:
                words[word] = id_
        ids = list(words.values())
        self._add(np.array(ids, np.int32), np.ones(len(ids), np.int64))
        self._numbers.update((form, n) for n, w in enumerate(words) for form in (w, f" {w}"))
        self._known = dict(self._numbers), len(ids)

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray] | None:
        """The token ids of texts end to end, without special tokens, int32 [total].

        Also where each text's begin, int64 [texts + 1]. None if most of the text is in pieces too
        long to come again: then this would only cost time.
        """
        array = pa.array(texts, pa.large_string())
        _, offsets, data = array.buffers()
        starts = np.frombuffer(offsets, np.int64, len(texts) + 1)
        text: bytes = data.to_pybytes()[: starts[-1]] if data else b""
        uncut: list[int] = []
        if any(token.encode() in text for token in self.whole):
            # A text that names special tokens is one piece.
            named = [any(token in each for token in self.whole) for each in texts]
            uncut = np.flatnonzero(named).tolist()
        cuts = _cuts(text, starts, self.chinese, uncut)
        sizes = np.diff(cuts)
        if 2 * int(sizes[sizes > LONGEST].sum()) > max(len(text), FEW_BYTES):
            return None
        pieces = pa.LargeStringArray.from_buffers(
            len(cuts) - 1, pa.py_buffer(cuts), data or pa.py_buffer(b"")
        )
        encoded = pieces.dictionary_encode()
        numbers = self._look_up(encoded.dictionary.to_pylist())
        words = numbers[encoded.indices.to_numpy()]
        counts = self._ends[words + 1] - self._ends[words]
        bounds = np.append(0, np.cumsum(counts))
        ids = self._ids[ranges(self._ends[words], counts)]
        self._trim()
        return ids, bounds[np.searchsorted(cuts, starts)]

    def _look_up(self, pieces: list[str]) -> np.ndarray:
        """The number of each piece; new ones are tokenized."""
        known = self._numbers
        numbers = np.fromiter(map(known.get, pieces, repeat(-1)), np.int64, len(pieces))
        new = np.flatnonzero(numbers < 0)
        if len(new) and self.alike:
            # Of ASCII letters only the word itself counts, in the case that the tokenizer makes.
            alike = [self._alike_of(pieces[i]) for i in new.tolist()]
            numbers[new] = np.fromiter(map(known.get, alike, repeat(-1)), np.int64, len(new))
            known.update((pieces[i], int(numbers[i])) for i in new.tolist() if numbers[i] >= 0)
            new = new[numbers[new] < 0]
        for at in range(0, len(new), TOGETHER):
            some = new[at : at + TOGETHER]
            numbers[some] = self._tokenize([pieces[i] for i in some.tolist()])
        for i in new.tolist():
            piece, number = pieces[i], int(numbers[i])
            if len(piece) <= LONGEST:
                known[piece] = number
                if self.alike:
                    known[self._alike_of(piece)] = number
        return numbers

    def _alike_of(self, piece: str) -> str:
        """A piece that has the same ids."""
        word = piece.lstrip(" \t\n\r")
        if not word.isascii() or not (word.isalnum() or len(word) <= 1):
            return piece  # it may name a special token, in which capitals matter
        return word.lower() if self.lowercase else word

    def _tokenize(self, pieces: list[str]) -> np.ndarray:
        """The numbers of new pieces, tokenized as one text: a blank separates words anywhere."""
        encoding = self.rust.encode(" ".join(pieces), add_special_tokens=False)
        starts = np.cumsum([0, *(len(piece) + 1 for piece in pieces[:-1])])
        begin = np.array([begin for begin, _ in encoding.offsets], np.int64)
        owner = np.searchsorted(starts, begin, side="right") - 1
        first = len(self._ends) - 1
        self._add(np.array(encoding.ids, np.int32), np.bincount(owner, minlength=len(pieces)))
        return np.arange(first, first + len(pieces))

    def _add(self, ids: np.ndarray, counts: np.ndarray) -> None:
        self._ids = np.concatenate([self._ids, ids])
        self._ends = np.concatenate([self._ends, self._ends[-1] + np.cumsum(counts)])

    def _trim(self) -> None:
        """Begins anew once there are too many words."""
        numbers, count = self._known
        if (
            len(self._numbers) - len(numbers) > MOST_WORDS
            or len(self._ids) - count > 4 * MOST_WORDS
        ):
            self._numbers = dict(numbers)
            self._ids, self._ends = self._ids[:count], self._ends[: count + 1]


def _is_cut(content: str) -> bool:
    """Whether texts are cut within this one."""
    text = content.encode()
    ends = np.array([0, len(text)])
    return len(_cuts(text, ends, True, ())) > len(np.unique(ends))


def _cuts(text: bytes, starts: np.ndarray, chinese: bool, uncut: Sequence[int]) -> np.ndarray:
    """Where pieces of UTF-8 text begin, with the end; int64.

    `starts` [texts + 1] are cuts, too; the texts of these numbers are not cut.
    """
    means = np.frombuffer(text.translate(_MEANS), np.uint8)
    cut = (means & _BEFORE).astype(bool)
    cut[1:] |= (means[:-1] & _AFTER).astype(bool)
    if chinese and len(means) and means.max() & _IS_CHINESE:
        found = np.flatnonzero(means & _IS_CHINESE)
        cut[found] = True
        cut[found[found + 3 < len(text)] + 3] = True
    for number in uncut:
        cut[starts[number] : starts[number + 1]] = False
    cut[starts[starts < len(text)]] = True
    return np.append(np.flatnonzero(cut), len(text))
