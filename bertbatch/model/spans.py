"""Where each token is in its text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertbatch.model.tokens import places


@dataclass(frozen=True)
class Spans:
    """The tokens of n texts, end to end, special ones included.

    texts: n strings. offsets: int64 [n + 1], where each text's tokens begin and end. starts and
    ends: int32 [total], characters of the text, from `starts` up to `ends`. special: bool
    [total], tokens that stand for no part of the text. continues: bool [total], tokens that go on
    with the word of the token before. apart: bool [total], tokens before which others are left out.
    """

    texts: list[str]
    offsets: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    special: np.ndarray
    continues: np.ndarray
    apart: np.ndarray

    def take(self, rows: np.ndarray) -> "Spans":
        """Those of some texts (indices, or bool for each), in this order."""
        rows = np.arange(len(self.texts))[rows]
        at = places(self.offsets, rows)
        return Spans(
            [self.texts[row] for row in rows],
            np.append(0, np.cumsum(np.diff(self.offsets)[rows])),
            self.starts[at],
            self.ends[at],
            self.special[at],
            self.continues[at],
            self.apart[at],
        )


def spans_of(
    encodings: Sequence[Any],
    texts: Sequence[str],
    left_out: Sequence[int],
    tokenizer: Any,
    least: int = 1,
) -> Spans:
    """From encodings of `tokenizers`, where so many characters of each text were cut off in front.

    `least`: tokens of a text that has none, which are then padding.

    Which tokens go on with a word is decided as transformers does for its entities: by the length
    of a WordPiece token; of other tokenizers' by the blanks around it.
    """
    counts = [max(len(encoding.ids), least) for encoding in encodings]
    offsets = np.append(0, np.cumsum(counts)).astype(np.int64)
    total = int(offsets[-1])
    bounds = np.zeros((total, 2), np.int32)
    special = np.ones(total, bool)
    continues = np.zeros(total, bool)
    backend = tokenizer.backend_tokenizer.model
    by_length = bool(getattr(backend, "continuing_subword_prefix", None))
    unknown = tokenizer.unk_token_id
    for i, (encoding, text, shift) in enumerate(zip(encodings, texts, left_out, strict=True)):
        if not encoding.ids:
            continue
        here = slice(offsets[i], offsets[i + 1])
        found = np.array(encoding.offsets, np.int32)
        special[here] = np.array(encoding.special_tokens_mask, bool)
        bounds[here] = found + shift * ~special[here][:, None]
        if by_length:
            sizes = np.fromiter(map(len, encoding.tokens), np.int32, len(found))
            goes_on = sizes != found[:, 1] - found[:, 0]
        else:
            goes_on = _without_blank(text, bounds[here][:, 0])
        continues[here] = goes_on & (np.array(encoding.ids) != (-1 if unknown is None else unknown))
    apart = np.zeros(total, bool)
    return Spans(list(texts), offsets, bounds[:, 0], bounds[:, 1], special, continues, apart)


def join_spans(pieces: Sequence[Spans]) -> Spans:
    """The texts of all pieces, in order."""
    lengths = np.concatenate([np.diff(piece.offsets) for piece in pieces])
    return Spans(
        [text for piece in pieces for text in piece.texts],
        np.append(0, np.cumsum(lengths)),
        np.concatenate([piece.starts for piece in pieces]),
        np.concatenate([piece.ends for piece in pieces]),
        np.concatenate([piece.special for piece in pieces]),
        np.concatenate([piece.continues for piece in pieces]),
        np.concatenate([piece.apart for piece in pieces]),
    )


def _without_blank(text: str, starts: np.ndarray) -> np.ndarray:
    """Whether neither the character at a place nor the one before is a blank; not at the start."""
    blank = np.array([*(character == " " for character in text), False])
    before = blank[np.maximum(starts - 1, 0)]
    return np.asarray((starts > 0) & ~before & ~blank[np.minimum(starts, len(text))])
