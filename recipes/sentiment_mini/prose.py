"""Real prose of all kinds, with a target by the ratings of its words.

The data sets are opinions; without prose a model takes whatever it has not seen for criticism.
Nobody has labelled these sentences. VADER's lexicon says how people rated single words, which is
enough to tell most sentences that say nothing good or bad, and a hint for the others.
"""

import math
import re
from pathlib import Path

LEAST, MOST = 4, 60  # words
NEGATIONS = re.compile(r"^(not|no|never|nor|neither|without|hardly|.*n't|.*nt)$")
REACH = 3  # words behind a negation that it turns around
TURNED = -0.6
MIDDLE = 0.3  # margin of a sentence without rated words: most of what people say means well
WIDTH = 2.0  # margin that a sentence of many good words has more
SCALE = 4.0  # rating, in sum, of such a sentence


def read_tagged(path: Path) -> list[str]:
    """The distinct sentences of a file with one a line, its words as `word/TAG`."""
    rows = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found: dict[str, None] = {}
    for row in rows:
        words = [token.rpartition("/")[0] for token in row.split()]
        if LEAST <= len(words) <= MOST:
            found[re.sub(r" (n't|'\w+)\b", r"\1", " ".join(words))] = None
    return list(found)


def weak_target(sentence: str, lexicon: dict[str, float]) -> float:
    """The probability that a sentence is positive, by the sum of its words' ratings."""
    words = re.findall(r"[a-z']+", sentence.lower())
    total = 0.0
    for i, word in enumerate(words):
        if rating := lexicon.get(word, 0.0):
            turned = any(NEGATIONS.match(other) for other in words[max(i - REACH, 0) : i])
            total += rating * (TURNED if turned else 1.0)
    return 1 / (1 + math.exp(-(MIDDLE + WIDTH * math.tanh(total / SCALE))))
