"""Composes the examples of an epoch, and the development texts, from all kinds of text."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from recipes.sentiment_mini.sentences import Writer
from recipes.sentiment_mini.settings import Settings
from recipes.sentiment_mini.texts import Split, Text, sentences_of

Example = tuple[list[int], float]  # token ids with [CLS] and [SEP]; probability of positive

WINDOWS = (96, 160, 256, 384)  # tokens of a window of a review
SHORTEST = 48  # a window of fewer tokens says too little about its review


@dataclass(frozen=True)
class Sources:
    """The texts by kind: sentences about films, product snippets, whole reviews, prose.

    Prose has no labels but how likely each sentence is positive.
    """

    movie: Split
    snippets: Split
    reviews: Split
    prose: list[tuple[str, float]] = field(default_factory=list)


class Composer:
    """An epoch hangs on the settings and its number alone, so a resumed run has the same ones."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, sources: Sources, writer: Writer, cfg: Settings
    ) -> None:
        self.tokenizer, self.writer, self.cfg = tokenizer, writer, cfg
        self.movie, self.snippets = sources.movie.training, sources.snippets.training
        self.prose = sources.prose
        held_out = {text for text, _ in sources.movie.held_out + sources.movie.development}
        self.reviews = [
            (self._ids(s for s in sentences_of(text) if s not in held_out), label)
            for text, label in sources.reviews.training
        ]

    def epoch(self, number: int) -> list[Example]:
        """All movie sentences, a window of every review, and some of every other kind."""
        cfg, rng = self.cfg, random.Random(f"{self.cfg.seed} {number}")
        writer = self.writer
        snippets, others, neutral, composed, prose = (
            round(cfg.size * count)
            for count in (cfg.snippets, cfg.everyday, cfg.neutral, cfg.composed, cfg.prose)
        )
        texts: list[tuple[str, float]] = [
            (self._sometimes_noisy(text, label, cfg.noise / 4, rng), label)
            for text, label in rng.sample(self.movie, round(cfg.size * len(self.movie)))
        ]
        for text, label in balanced(self.snippets, snippets, rng):
            framed = rng.random() < cfg.snippets_framed
            row = writer.around(text, 4, rng) if framed else text
            texts.append((self._sometimes_noisy(row, label, cfg.noise / 4, rng), label))
        for _ in range(others):
            texts.append(everyday(writer, self.movie, self.snippets, cfg, rng))
        for _ in range(neutral):
            row = " ".join(writer.neutral(rng) for _ in range(rng.randint(1, 3)))
            texts.append((self._sometimes_noisy(row, None, cfg.noise, rng), cfg.neutral_target))
        texts += [self._review(rng) for _ in range(composed)]
        texts += [
            (self._sometimes_noisy(text, None, cfg.noise, rng), target)
            for text, target in rng.sample(self.prose, prose)
        ]
        rows = list(zip(self._ids(text for text, _ in texts), (y for _, y in texts), strict=True))
        for sentences, label in rng.sample(self.reviews, round(cfg.size * len(self.reviews))):
            ids = window(sentences, rng)
            if len(ids) >= SHORTEST:
                rows.append((ids, label))
        cls, sep = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        return [([cls, *ids[: cfg.max_tokens - 2], sep], target) for ids, target in rows]

    def _ids(self, texts: Iterable[str]) -> list[list[int]]:
        rows = list(texts)
        return list(self.tokenizer(rows, add_special_tokens=False)["input_ids"]) if rows else []

    def _sometimes_noisy(
        self, text: str, label: int | None, chance: float, rng: random.Random
    ) -> str:
        return self.writer.noise(text, label, rng) if rng.random() < chance else text

    def _review(self, rng: random.Random) -> Text:
        """A review whose label is that of most of its sentences, with neutral ones between."""
        cfg, label, count = self.cfg, rng.randrange(2), rng.randint(1, 8)
        opposite = min(int(count * rng.uniform(0, cfg.opposite_max) + 0.5), (count - 1) // 2)
        labels: list[int | None] = [*[1 - label] * opposite, *[label] * (count - opposite)]
        labels += [None] * int(rng.uniform(0, 2) * count)
        rng.shuffle(labels)
        rows = []
        for one in labels:
            if one is None:
                row = self.writer.neutral(rng)
            elif rng.random() < 0.2:
                row = self.writer.labelled(one, rng)
            else:
                row = pick(self.snippets if rng.random() < 0.15 else self.movie, one, rng)
            rows.append(row if row[-1] in ".!?" else f"{row}.")
            if rng.random() < cfg.break_share:
                rows.append("<br /><br />")
        return " ".join(rows), label


def window(sentences: list[list[int]], rng: random.Random) -> list[int]:
    """Whole sentences from the start, from the end or from anywhere in a review."""
    most, where = rng.choice(WINDOWS), rng.random()
    if where < 0.35:
        sentences = sentences[::-1]
    elif where < 0.65:
        sentences = sentences[rng.randrange(len(sentences)) :]
    picked: list[list[int]] = []
    room = most
    for ids in sentences:
        room -= len(ids)
        if room < 0:
            break
        picked.append(ids)
    return [token for ids in (picked[::-1] if where < 0.35 else picked) for token in ids]


def pick(texts: list[Text], label: int, rng: random.Random) -> str:
    """Any text with this label."""
    while True:
        text, its_label = rng.choice(texts)
        if its_label == label:
            return text


def balanced(texts: list[Text], count: int, rng: random.Random) -> list[Text]:
    """As many of either label."""
    picked = []
    for label in (0, 1):
        rows = [row for row in texts if row[1] == label]
        picked += rng.sample(rows, min(count // 2, len(rows)))
    return picked


def everyday(
    writer: Writer, movie: list[Text], snippets: list[Text], cfg: Settings, rng: random.Random
) -> Text:
    """Something said in passing: a frame's opinion or news, or a row among neutral sentences."""
    label, source = rng.randrange(2), rng.random()
    if source < 0.65:
        text = writer.around(writer.labelled(label, rng), 2, rng)
    else:
        text = writer.around(pick(snippets if source < 0.85 else movie, label, rng), 4, rng)
    return (writer.noise(text, label, rng) if rng.random() < cfg.noise else text), label


def development(
    sources: Sources, writer: Writer, others: dict[str, list[Text]], cfg: Settings
) -> dict[str, list[Text]]:
    """What checkpoints are chosen with: texts of every kind, never trained on.

    Of the whole reviews the held-out tenth serves, too: nothing is reported on them.
    """
    rng = random.Random(cfg.seed)
    movie, snippets = sources.movie.development, sources.snippets.development
    rows = {
        "movie sentences": movie,
        "product snippets": snippets,
        "everyday": [
            everyday(writer, movie, snippets, cfg, rng) for _ in range(cfg.development_rows)
        ],
        "reviews": sources.reviews.development + sources.reviews.held_out,
        **others,
    }
    return {
        kind: rng.sample(texts, min(cfg.development_rows, len(texts)))
        for kind, texts in rows.items()
    }


def batches(lengths: list[int], tokens: int, most: int) -> Iterator[list[int]]:
    """Row numbers, shortest rows first, in batches of at most `tokens` padded tokens."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == most or (len(batch) + 1) * lengths[index] > tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
