"""The kinds of token that statistics ask for, by a model's tokenizer."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertbatch.errors import JobError
from bertbatch.statistics.statistic import Statistic


@dataclass(frozen=True)
class TokenClasses:
    """For every token id whether it is of a kind: bool [vocabulary] each.

    `special` are the tokens that the tokenizer adds to a text; `kinds` are "cls", "sep" and
    "punctuation": tokens whose every character is of a Unicode category P.
    """

    special: np.ndarray
    kinds: dict[str, np.ndarray]


def token_classes(tokenizer: Any, statistics: Sequence[Statistic]) -> TokenClasses:
    """The classes by a transformers tokenizer.

    Raises JobError if it lacks a kind of token that one of the statistics is about.
    """
    size = max(tokenizer.get_vocab().values()) + 1
    kinds = {}
    for kind in ("cls", "sep"):
        id_ = getattr(tokenizer, f"{kind}_token_id")
        needing = [s.name for s in statistics if s.needs == kind]
        if id_ is None and needing:
            raise JobError(
                f"attention.statistics {', '.join(needing)}: the model's tokenizer has no {kind} "
                "token; remove them from attention.statistics"
            )
        kinds[kind] = np.arange(size) == (-1 if id_ is None else id_)
    special = np.zeros(size, bool)
    special[special_ids(tokenizer)] = True
    kinds["punctuation"] = np.zeros(size, bool)
    if any(getattr(s, "kind", "") == "punctuation" for s in statistics):
        tokens = tokenizer.convert_ids_to_tokens(range(size))
        kinds["punctuation"][:] = [_is_punctuation(tokenizer, t) for t in tokens]
    kinds["punctuation"] &= ~special
    return TokenClasses(special, kinds)


def special_ids(tokenizer: Any) -> list[int]:
    """The tokens that stand for no part of a text; an unknown word is a part."""
    named = [getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad", "bos", "eos")]
    return sorted({id_ for id_ in named if id_ is not None})


def _is_punctuation(tokenizer: Any, token: str | None) -> bool:
    # WordPiece marks tokens within a word; other tokenizers' marks mean spaces or bytes.
    text = (token or "").removeprefix("##")
    if not _all_punctuation(text[:1]) or not text:
        if text.isascii():
            return False
        text = tokenizer.convert_tokens_to_string([token]).strip()
    return _all_punctuation(text)


def _all_punctuation(text: str) -> bool:
    return bool(text) and all(unicodedata.category(c).startswith("P") for c in text)
