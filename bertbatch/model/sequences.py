"""Rows of several token sequences: windows of a long text, hypotheses about a text.

Also rows that are cut in the middle. All others are one sequence, cut at its end, by
`tokenizer.py`.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bertbatch.errors import JobError
from bertbatch.model.asked import Asked
from bertbatch.model.content import Content
from bertbatch.model.spans import Spans
from bertbatch.model.template import Part
from bertbatch.model.tokenizer import Tokenizer
from bertbatch.model.tokens import Parts, Tokens, ranges

# Of a text that is too long, so much of the room is for its beginning, the rest for its end: about
# as https://arxiv.org/abs/1905.05583 found best for classification (128 and 382 of 510).
HEAD = 0.25
OVERLAP = 0.25  # of the room, that neighbouring windows share unless the job says how much


def encode_rows(tokenizer: Tokenizer, asked: Asked, texts: list[str]) -> Tokens:
    """The sequences of rows. Raises JobError if a window or a hypothesis leaves no room."""
    if asked.long_text == "head_tail":
        return _head_and_tail(tokenizer, texts)
    make = _hypotheses if asked.task == "zero_shot" else _windows
    tokens, offsets = make(tokenizer, asked, texts)
    return replace(tokens, parts=Parts(offsets, tokens.lengths))


def check_room(tokenizer: Tokenizer, asked: Asked) -> None:
    """Raises JobError if a window or a hypothesis leaves no room for any text."""
    encode_rows(tokenizer, asked, ["a"])


def _windows(tokenizer: Tokenizer, asked: Asked, texts: list[str]) -> tuple[Tokens, np.ndarray]:
    """Windows as transformers' tokenizers make them with `stride`, from the beginning on."""
    content, template, room = tokenizer.content(texts), tokenizer.template(False), _room(tokenizer)
    shared = int(room * OVERLAP) if asked.stride is None else asked.stride
    if shared >= room:
        raise JobError(
            f"model.stride {shared}: windows of {tokenizer.max_length} tokens have room for {room} "
            "of the text; set a smaller one"
        )
    step = room - shared
    counts = np.diff(content.offsets)
    number = 1 + -(-np.maximum(counts - room, 0) // step)
    row = np.repeat(np.arange(len(texts)), number)
    begins = ranges(np.zeros(len(texts), np.int64), number) * step + content.offsets[row]
    part = Part(content.ids, begins, np.minimum(room, content.offsets[row + 1] - begins))
    encoded = template.fill([part], np.zeros(len(row), bool))
    spans = _spans(content, encoded.offsets, encoded.source, [texts[i] for i in row])
    return tokenizer.tokens_of(encoded, False, spans), np.append(0, np.cumsum(number))


def _head_and_tail(tokenizer: Tokenizer, texts: list[str]) -> Tokens:
    content, template, room = tokenizer.content(texts), tokenizer.template(False), _room(tokenizer)
    head = int(room * HEAD)
    counts = np.diff(content.offsets)
    place = ranges(np.zeros(len(texts), np.int64), counts)
    size = np.repeat(counts, counts)
    kept = np.flatnonzero((size <= room) | (place < head) | (place >= size - (room - head)))
    left = np.minimum(counts, room)
    part = Part(content.ids[kept], np.cumsum(left) - left, left)
    encoded = template.fill([part], counts > room)
    assert encoded.source is not None
    source = np.where(encoded.source < 0, -1, kept[encoded.source] if len(kept) else -1)
    return tokenizer.tokens_of(encoded, False, _spans(content, encoded.offsets, source, texts))


def _hypotheses(tokenizer: Tokenizer, asked: Asked, texts: list[str]) -> tuple[Tokens, np.ndarray]:
    """Each text with each hypothesis; only the text is cut, for each of them anew."""
    lines = [asked.hypothesis_template.format(label) for label in asked.candidate_labels]
    template = tokenizer.template(True)
    hypotheses = tokenizer.content(lines)
    sizes = np.diff(hypotheses.offsets)
    room = tokenizer.max_length - template.count - sizes
    if room.min() < 1:
        raise JobError(
            f"model.candidate_labels: {lines[int(room.argmin())]!r} is {sizes.max()} tokens, which "
            f"leaves none of {tokenizer.max_length} for a text"
        )
    short, shortened = tokenizer.ends_that_count(texts)
    content = tokenizer.content(short)
    row = np.repeat(np.arange(len(texts)), len(lines))
    which = np.tile(np.arange(len(lines)), len(texts))
    full = np.diff(content.offsets)[row]
    kept = np.minimum(full, room[which])
    begins = content.offsets[row + 1] - kept if tokenizer.cuts_left else content.offsets[row]
    parts = [
        Part(content.ids, begins, kept),
        Part(hypotheses.ids, hypotheses.offsets[which], sizes[which]),
    ]
    encoded = template.fill(parts, (full > kept) | (np.array(shortened, np.int64)[row] > 0))
    return tokenizer.tokens_of(encoded, True), np.arange(len(texts) + 1) * len(lines)


def _room(tokenizer: Tokenizer) -> int:
    """Tokens of a text that fit into one sequence."""
    room = tokenizer.max_length - tokenizer.template(False).count
    if room < 1:
        raise JobError(f"model.max_length {tokenizer.max_length} leaves no room for a text")
    return room


def _spans(
    content: Content, offsets: np.ndarray, source: np.ndarray | None, texts: Sequence[str]
) -> Spans | None:
    """Where the tokens of sequences are, from where those of whole texts are."""
    whole = content.spans
    if whole is None:
        return None
    assert source is not None
    special = source < 0
    place = np.where(special, 0, source)

    apart = np.zeros(len(source), bool)
    apart[1:] = ~special[1:] & ~special[:-1] & (source[1:] != source[:-1] + 1)

    def gather(values: np.ndarray) -> np.ndarray:
        found = values[place] if len(values) else np.zeros(len(place), values.dtype)
        found[special] = 0
        return found

    return replace(
        whole,
        texts=list(texts),
        offsets=offsets,
        starts=gather(whole.starts),
        ends=gather(whole.ends),
        special=special,
        continues=gather(whole.continues),
        apart=apart,
    )
