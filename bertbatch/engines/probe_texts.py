"""The texts of a probe, tokenized for a model.

They are real text: made-up ids need not exist, and some models search for a token that only
their tokenizer adds.
"""

import random
from typing import Any

import numpy as np

from bertbatch.engines.probe import Probe
from bertbatch.model.checkpoint import as_job_errors
from bertbatch.model.tokenizer import Tokenizer
from bertbatch.model.tokens import Tokens

SAMPLE_TEXTS, SAMPLE_TOKENS = 64, 64  # for comparing a quantized model with float32
FEWEST_TOKENS = 4  # of the shortest row; each following row has twice as many and one more
TWICE_UP_TO = 100  # tokens: up to this length there are two rows, with different texts
CHARACTERS = 16  # of text per token: words are rarely longer, and rows start a little later

TEXTS = (
    "The trains were late again, but the man at the counter found us seats and even smiled.",
    "I bought this kettle in March. It leaked in April, and nobody has answered my letters.",
    "Was the second season worth it? Honestly: no. The first one, though, was a small wonder!",
    "Les voisins ont planté des tomates derrière le garage; elles sont déjà presque mûres.",
    "Der Regen hörte erst auf, als wir oben waren – und dann sah man bis zum Meer.",
    "El pan de ayer todavía está bueno, aunque mi abuela diría que ya es para la sopa.",
    "駅前の小さな食堂で食べた焼き魚が、旅でいちばんおいしかったです。",
    "説明書が分かりにくく、組み立てに三時間もかかってしまいました。",
    "这家书店晚上十点才关门,周末常常有人在里面读到最后一刻。",
    "Сосед чинит велосипед во дворе и каждому рассказывает, где купил цепь.",
    "الطريق إلى القرية طويل، لكن المنظر في الصباح يستحق التعب.",
    "Order no. 48-1207 arrived on 3 May (two days early), unopened; 9/10, would buy again.",
)


def make_probe(
    tokenizer: Tokenizer, max_length: int, pair: bool = False, sample: list[str] | None = None
) -> Probe:
    """Rows of a few tokens up to `max_length`, single texts or pairs.

    `sample` are texts of the corpus, for a quantized model; if too few of them differ, others
    are added.
    Raises JobError if the tokenizer fails on them.
    """
    with as_job_errors(tokenizer.where, "its tokenizer fails on plain text"):
        return _probe(tokenizer, max_length, pair, sample)


def _probe(tokenizer: Tokenizer, max_length: int, pair: bool, sample: list[str] | None) -> Probe:
    lengths = _lengths(max_length)
    rows = [length for length in lengths for _ in range(1 + (length < TWICE_UP_TO))]
    long = _long_texts(tokenizer, max_length)
    made = []
    for i, length in enumerate(rows):
        most = CHARACTERS * length  # the time to truncate a pair grows with its length squared
        first, second = long[i % 2][7 * i : 7 * i + most], long[1 - i % 2][:most]
        made.append(tokenizer.encode([first], [second] if pair else None, length))
    some = None
    if sample is not None:
        texts = list(dict.fromkeys(text for text in sample if text.strip()))
        texts += [f"{a} {b}" for a in TEXTS for b in TEXTS]
        pair_texts = texts[1 : SAMPLE_TEXTS + 1] if pair else None
        some = tokenizer.encode(
            texts[:SAMPLE_TEXTS], pair_texts, max_length=min(SAMPLE_TOKENS, max_length)
        )
    return Probe(
        tokens=_joined(made),
        padding=tokenizer.padding,
        vocabulary=tokenizer.vocabulary,
        types_matter=tokenizer.types_matter,
        sample=some,
    )


def _lengths(most: int) -> list[int]:
    found, length = [], FEWEST_TOKENS
    while length < most:
        found.append(length)
        length = 2 * length + 1
    return [*found, most]


def _long_texts(tokenizer: Tokenizer, tokens: int) -> list[str]:
    """Two texts of more than this many tokens: our texts with words of the tokenizer's own."""
    ids = sorted(tokenizer.python.get_vocab().values())
    chosen = random.Random(0).sample(ids, min(len(ids), 500))
    known = str(tokenizer.python.decode(chosen, skip_special_tokens=True))
    ours = " ".join(TEXTS)
    first, second = f"{ours} {known}", f"{known} {ours}"
    return [(text + " ") * (2 + CHARACTERS * tokens // len(text)) for text in (first, second)]


def _joined(rows: list[Tokens]) -> Tokens:
    """Several tokenized texts as one value. No row counts as a duplicate."""
    count = len(rows)
    flat: dict[str, Any] = {
        name: np.concatenate([getattr(row, name) for row in rows])
        for name in ("ids", "pair_starts", "truncated", "unknown", "content", "sampled")
    }
    types = [row.types for row in rows if row.types is not None]
    offsets = np.append(0, np.cumsum([len(row.ids) for row in rows]))
    return Tokens(
        **flat,
        offsets=offsets,
        types=np.concatenate(types) if len(types) == count else None,
        first_duplicate=np.arange(count),
    )
