"""A single text with every head's attention weights.

Its tokens and its prediction come with them. The weights are transformers' own, in float32 and in
full, which takes little memory for one text.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from bertbatch.errors import JobError
from bertbatch.job.model import Model
from bertbatch.model.loading import load
from bertbatch.model.spec import check_model
from bertbatch.model.token_kinds import special_ids
from bertbatch.model.tokenizer import UNKNOWN_SHARE, get_tokenizer, unknown_words
from bertbatch.model.tokens import Answers
from bertbatch.tasks.task import task_of

NUMBERED = re.compile(r"(.*)([:@])(\d{1,9})", re.S)  # one of several tokens that are alike


@dataclass(frozen=True)
class Inspection:
    """A text's tokens [n], its answer, and its attention weights [layers, heads, n, n].

    `weights[l, h, i, j]` is the share of token i's attention that goes to token j.
    `content` bool [n]: tokens that are not special. `pair_start`: where the second text starts; n
    for a single text. `labels`: the model's classes, in the order of its scores. `statistics`: see
    `text_statistics`; empty unless they were asked for.
    """

    tokens: list[str]
    content: np.ndarray
    answer: dict[str, object]
    weights: np.ndarray
    pair_start: int
    labels: list[str]
    warnings: list[str] = field(default_factory=list)  # why the text does not suit the model
    statistics: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def named(self) -> list[str]:
        """The tokens, with their places from 1 where several are alike: cat@3, cat@9."""
        count = Counter(self.tokens)
        return [
            f"{token}@{place}" if count[token] > 1 else token
            for place, token in enumerate(self.tokens, 1)
        ]

    def query(self, token: str | None) -> int:
        """The place, from 0, of a token; without one, of the first, which classifiers read.

        `token` is its letters, of which the first is meant; the:2 is the second of them, and @5 or
        the@5 the fifth token. Raises JobError if the text has no such token.
        """
        if token is None:
            return 0
        if places := self._places(token):
            return places[0]
        if found := NUMBERED.fullmatch(token):
            word, sign, number = found[1], found[2], int(found[3])
            places = self._places(word) if word else list(range(len(self.tokens)))
            if sign == ":" and word and 1 <= number <= len(places):
                return places[number - 1]
            if sign == "@" and number - 1 in places:
                return number - 1
        raise JobError(f"--token {token}: the text has the tokens {' '.join(self.named)}")

    def _places(self, word: str) -> list[int]:
        """The places of the tokens of these letters, or else of those that are the same."""
        spelled = [known.removeprefix("##").strip("▁ ").lower() for known in self.tokens]
        alike = [place for place, known in enumerate(spelled) if known == word.lower()]
        return alike or [place for place, known in enumerate(self.tokens) if known == word]

    def strongest_heads(self, query: int, count: int) -> list[tuple[int, int]]:
        """The heads (layer, head) that give most of a token's attention to one content token.

        Attention to the token itself does not count.
        """
        others = self.content.copy()
        others[query] = False
        if not others.any():
            return []
        most = self.weights[:, :, query, others].max(-1)
        best = np.argsort(-most, axis=None, kind="stable")[:count]
        layers, heads = np.unravel_index(best, most.shape)
        return [(int(layer), int(head)) for layer, head in zip(layers, heads, strict=True)]


def inspect_text(
    settings: Model, text: str, pair_text: str | None = None, with_statistics: bool = False
) -> Inspection:
    """Scores one text, or a pair, on the CPU. Raises JobError if the model cannot be loaded."""
    import torch

    from bertbatch.attention.text_statistics import text_statistics

    for given in (text, pair_text or ""):
        if not given.isascii() and given.encode(errors="ignore").decode() != given:
            raise JobError("the text is not Unicode: set the terminal's encoding to UTF-8")
    spec = check_model(settings)
    if spec.asked.task == "zero_shot":
        raise JobError(
            "model.task zero_shot scores a text once for each label; to see one of these, give the "
            "hypothesis as the second text, and model.task: single_label"
        )
    if spec.asked.gives != "classes" and pair_text is not None:
        raise JobError(f"model.task {spec.asked.task} reads single texts; give one")
    made = get_tokenizer(spec)
    tokenizer = made.python
    task = task_of(spec)
    model = load(spec, "cpu", "float32", "eager")
    inputs = tokenizer(
        text, pair_text, truncation=True, max_length=spec.max_length, return_tensors="pt"
    )
    if getattr(model.config, "type_vocab_size", 0) < 2:
        inputs.pop("token_type_ids", None)
    with torch.inference_mode():
        answer = model(**inputs, output_attentions=True)
    if not answer.attentions:
        raise JobError(
            f"model.name {spec.name}: it returns no attention weights; use a model shaped as BERT"
        )
    ids = inputs["input_ids"][0].tolist()
    logits, spans, ends = answer.logits.numpy(), None, None
    if spec.asked.gives == "tokens":
        logits, spans, ends = logits[0], made.encode([text]).spans, np.array([0, len(ids)])
    columns = task.columns(Answers(logits, ends, spans))
    content = ~np.isin(ids, special_ids(tokenizer))
    unknown = np.isin(ids, [tokenizer.unk_token_id] if tokenizer.unk_token_id is not None else [])
    share = (unknown & content).sum() / max(content.sum(), 1)
    warnings = [unknown_words(share, spec.name)] if share > UNKNOWN_SHARE else []
    whole = len(tokenizer(text, pair_text, verbose=False)["input_ids"])
    if whole > len(ids):
        warnings.append(f"the text has {whole:,} tokens, and only {len(ids):,} of them are scored")
    weights = torch.cat(answer.attentions).numpy()
    tokens = made.encode([text], None if pair_text is None else [pair_text])
    one = tokens.take(np.zeros(1, np.int64))
    return Inspection(
        warnings=warnings,
        tokens=[_readable(tokenizer, token) for token in tokenizer.convert_ids_to_tokens(ids)],
        content=content,
        answer=pa.table(columns, schema=pa.schema(task.fields)).to_pylist()[0],
        weights=weights,
        pair_start=int(one.pair_starts[0]),
        labels=list(spec.labels),
        statistics=text_statistics(weights, one, tokenizer) if with_statistics else {},
    )


def _readable(tokenizer: Any, token: str) -> str:
    """The token itself, or the letters that a byte-level tokenizer's token stands for."""
    if token.isascii() or "▁" in token or not (set(token) & set("ĠĊ")):
        return token
    return str(tokenizer.convert_tokens_to_string([token]))
