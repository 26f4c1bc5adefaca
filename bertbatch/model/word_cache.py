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
LONGEST = 64  # characters of a piece that is kept: longer ones rarely come again

_BLANKS = b" \t\n\r"
_PUNCTUATION = bytes(c for c in range(33, 127) if not chr(c).isalnum())
_CHINESE = bytes(range(0xE5, 0xEA))  # first of three bytes: U+5000 to U+9FFF


def _table(values: bytes) -> np.ndarray:
    table = np.zeros(256, bool)
    table[list(values)] = True
    return table


_BEFORE = _table(_BLANKS + _PUNCTUATION)
_AFTER = _table(_PUNCTUATION)
_IS_CHINESE = _table(_CHINESE)


@dataclass
class WordCache:
    """The token ids of the words seen so far. `chinese`: whether Chinese characters are words.

    The tokenizer must not truncate while it is used here.
    """

    rust: Any
    chinese: bool
    whole: tuple[str, ...]  # what is a token as it stands, though it would be cut
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
        whole = [token for token in added if _is_cut(token.content.encode())]
        # What is around such a token decides, or it is looked for in what the normalizer makes.
        if any(token.single_word or token.lstrip or token.rstrip for token in added) or any(
            token.normalized or " " in token.content for token in whole
        ):
            return None
        cache = cls(rust, rust.normalizer.handle_chinese_chars, tuple(t.content for t in whole))
        if len(whole) == len(added):
            cache._know_vocabulary()
        return cache

    def _know_vocabulary(self) -> None:
        """Plain words that are tokens need not be tokenized."""
        lowercase = self.rust.normalizer.lowercase
        most = self.rust.model.max_input_chars_per_word
        words: dict[str, int] = {}
        for word, id_ in self.rust.get_vocab(with_added_tokens=False).items():
            if word.isascii() and word.isalnum() and len(word) <= most:
                if not lowercase:
                    words[word] = id_
                elif word == word.lower():
                    words |= {word: id_, word.capitalize(): id_}
        ids = list(words.values())
        self._add(np.array(ids, np.int32), np.ones(len(ids), np.int64))
        self._numbers.update((form, n) for n, w in enumerate(words) for form in (w, f" {w}"))
        self._known = dict(self._numbers), len(ids)

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The token ids of texts end to end, without special tokens, int32 [total].

        Also where each text's begin, int64 [texts + 1].
        """
        array = pa.array(texts, pa.large_string())
        _, offsets, data = array.buffers()
        starts = np.frombuffer(offsets, np.int64, len(texts) + 1)
        text = np.frombuffer(data, np.uint8, starts[-1]) if starts[-1] else np.zeros(0, np.uint8)
        # A text that names special tokens is one piece.
        uncut = [i for i, each in enumerate(texts) if any(token in each for token in self.whole)]
        cuts = _cuts(text, starts, self.chinese, uncut)
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
        for at in range(0, len(new), TOGETHER):
            some = new[at : at + TOGETHER]
            numbers[some] = self._tokenize([pieces[i] for i in some.tolist()])
        short = ((pieces[i], n) for i, n in zip(new.tolist(), numbers[new].tolist(), strict=True))
        known.update((piece, n) for piece, n in short if len(piece) <= LONGEST)
        return numbers

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
        if len(self._numbers) > MOST_WORDS or len(self._ids) > 4 * MOST_WORDS:
            numbers, count = self._known
            self._numbers = dict(numbers)
            self._ids, self._ends = self._ids[:count], self._ends[: count + 1]


def _is_cut(content: bytes) -> bool:
    """Whether texts are cut within this one."""
    text = np.frombuffer(content, np.uint8)
    ends = np.array([0, len(text)])
    return len(_cuts(text, ends, True, ())) > len(np.unique(ends))


def _cuts(text: np.ndarray, starts: np.ndarray, chinese: bool, uncut: Sequence[int]) -> np.ndarray:
    """Where pieces of UTF-8 text begin, with the end; int64.

    `starts` [texts + 1] are cuts, too; the texts of these numbers are not cut.
    """
    cut = _BEFORE[text]
    cut[1:] |= _AFTER[text[:-1]]
    if chinese:
        (found,) = np.nonzero(_IS_CHINESE[text])
        cut[found] = True
        cut[found[found + 3 < len(text)] + 3] = True
    for number in uncut:
        cut[starts[number] : starts[number + 1]] = False
    cut[starts[starts < len(text)]] = True
    return np.append(np.flatnonzero(cut), len(text))
