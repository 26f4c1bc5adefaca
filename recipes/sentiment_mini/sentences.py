"""Writes everyday sentences: neutral ones, good and bad news, and the noise of short messages.

The data sets have neither: in them plain prose ("I was", "would have") goes with complaints, and
a model that has seen nothing else takes most of it for criticism. The frames are our own, in
`frames/`; the words come from there and from VADER's lexicon, where people rated each.
"""

import random
import re
from pathlib import Path

from recipes.sentiment_mini.texts import place

FRAMES = Path(__file__).parent / "frames"
STRONG = 1.3  # a word counts as good or bad from this mean rating on, of -4 to 4
SAYS_HOW = re.compile(r"(ful|less|ous|able|ible|ive|ed|ing|[^lt]y|al|ent|ant|ic)$")  # adjectives
FROM_LEXICON = 0.5  # chance that a word for good or bad is the lexicon's
COMMON = 0.8  # chance that this word is one that the tokenizer knows whole, so a common one

SHORTER = [
    (r"\b(do|does|did|is|was|were|are|would|could|should|have|has|had) not\b", r"\1n't"),
    (r"\bcannot\b", "can't"),
    (r"\bwill not\b", "won't"),
    (r"\bi am\b", "i'm"),
    (r"\b(i|you|we|they) have\b(?= (had|seen|read|been|bought|used))", r"\1've"),
    (r"\b(it|that|he|she) is\b", r"\1's"),
    (r"\b(i|we|they|you) will\b", r"\1'll"),
]
CARELESS = [
    (r"'", ""),
    (r"\byou\b", "u"),
    (r"\bare\b", "r"),
    (r"\band\b", "&"),
    (r"\bso\b", "sooo"),
    (r"\bplease\b", "pls"),
    (r"\bbecause\b", "cuz"),
    (r"\bgoing to\b", "gonna"),
    (r"\bwant to\b", "wanna"),
    (r"\bwith\b", "w/"),
    (r"\.$", ""),
    (r"\.", " ..."),
    (r"!", "!!!"),
]


def lines(name: str) -> list[str]:
    """The lines of a file of frames, without its comments."""
    rows = (FRAMES / name).read_text(encoding="utf-8").splitlines()
    return [row for row in rows if row and not row.startswith("#")]


def read_lexicon(path: Path) -> dict[str, float]:
    """Words of VADER's lexicon and their mean ratings."""
    rows = (row.split("\t") for row in path.read_text(encoding="utf-8").splitlines() if row)
    return {row[0]: float(row[1]) for row in rows}


class Writer:
    """Writes sentences from the frames of one side of the split."""

    def __init__(
        self, lexicon: dict[str, float], vocabulary: set[str], development: bool = False
    ) -> None:
        self.slots = {
            name: [word.strip() for word in words.split(",")]
            for name, words in (line.split(": ", 1) for line in lines("slots.txt"))
        }
        self.neutral_frames = lines("neutral.txt")
        self.opinions, self.events = (
            [pair for pair in lines(name) if (place(pair, -1) == "development") == development]
            for name in ("pairs.txt", "events.txt")
        )
        self.rated, self.common, self.smileys = [], [], []
        for sign in (-1, 1):
            strong = [word for word, rating in lexicon.items() if sign * rating >= STRONG]
            words = [w for w in strong if w.isalpha() and len(w) > 3 and SAYS_HOW.search(w)]
            self.rated.append(words)
            self.common.append([word for word in words if word in vocabulary])
            self.smileys.append([w for w in strong if not re.search(r"[a-z]{2}|\d", w.lower())])

    def neutral(self, rng: random.Random) -> str:
        """A sentence that says neither yes nor no."""
        return self._casual(self._fill(rng.choice(self.neutral_frames), rng), rng)

    def labelled(self, label: int, rng: random.Random) -> str:
        """An opinion, or news that is good or bad."""
        pair = rng.choice(self.opinions if rng.random() < 0.6 else self.events)
        return self._casual(self._fill(pair.split(" | ")[1 - label], rng), rng)

    def around(self, sentence: str, most: int, rng: random.Random) -> str:
        """The sentence among up to `most` neutral ones."""
        rows = [sentence, *(self.neutral(rng) for _ in range(rng.randint(0, most)))]
        rng.shuffle(rows)
        return " ".join(rows)

    def noise(self, text: str, label: int | None, rng: random.Random) -> str:
        """Names, addresses and tags alike for both labels; smileys and words go with the label."""
        if rng.random() < 0.5:
            who = f"@{self._word('name', rng)}{rng.choice(['', '', rng.randrange(100)])}"
            text = f"{who}{rng.choice(['', '', ':', ','])} {text}"
        if rng.random() < 0.15:
            text = f"{self._word('start', rng)} {text}"
        if rng.random() < 0.3:
            address = "".join(
                rng.choices("abcdefghijkmnpqrstuvwxyz0123456789", k=rng.randint(3, 8))
            )
            text += f" {self._word('site', rng)}{address}"
        if rng.random() < 0.2:
            text += f" #{self._word('tag', rng)}"
        if label is not None and rng.random() < 0.3:
            mark = rng.choice(self.slots["yay" if label else "ugh"])
            if rng.random() < 0.3:
                mark = rng.choice(self.smileys[label])
            text = f"{text} {mark}" if rng.random() < 0.7 else f"{mark} {text}"
        if label is not None and rng.random() < 0.1:
            text += f" #{rng.choice(self.common[label])}"
        return text

    def _fill(self, frame: str, rng: random.Random) -> str:
        return re.sub(r"\{(\w+)\}", lambda found: self._word(found[1], rng), frame)

    def _word(self, slot: str, rng: random.Random) -> str:
        if slot in ("good", "bad") and rng.random() < FROM_LEXICON:
            words = self.common if rng.random() < COMMON else self.rated
            return rng.choice(words[slot == "good"])
        return rng.choice(self.slots[slot])

    def _casual(self, text: str, rng: random.Random) -> str:
        """As people write: mostly shortened, sometimes careless."""
        if rng.random() < 0.6:
            for pattern, short in SHORTER:
                text = re.sub(pattern, short, text)
        if rng.random() < 0.3:
            for pattern, careless in rng.sample(CARELESS, 4):
                text = re.sub(pattern, careless, text)
        return text
