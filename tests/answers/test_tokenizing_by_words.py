"""Tokenizing word by word gives the tokenizer's own ids, for every string."""

import random
from functools import cache
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from bertbatch.job.model import Model
from bertbatch.model import tokenizer, word_cache
from bertbatch.model.spec import check_model
from bertbatch.model.template import Template, cut
from bertbatch.model.word_cache import WordCache

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("the", "The", "film", "un", "##able", "caf", "café", "cafe", "don", "ss", "ß", "i", "İ")
SIGNS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'\"-()[]$<=>^`|~/\\@#"
FOREIGN = "éèüñåßΣσςжйЖ한국語中文映画東京々あいうアイウลกا্কि"
# What may stand next to anything: marks, joiners, controls, blanks of every kind, rare planes.
ODD = (
    *"\u0301\u0327\u0300\u20dd\u093f\u200d\u200c\u00ad\ufeff\ufffd\x00\x07\x7f\x85\u2028",
    *" \t\n\r\x0b\x0c\u00a0\u1680\u2009\u202f\u3000\u200b",
    *"\u4dff\u4e00\u5000\u9fff\ua000\uf900\ufaff\u3400\u3007\U00020000\U0002a6df\U0001f600\U0010ffff",
    *"“”‘’—…、。·¿¡«»＂﹏֊؟༄",
    *("[SEP]", "[MASK]", "[CLS", "SEP]", "[sep]", "##", "İstanbul", "ﬁn", "ǅ", "x" * 101),
)
ALPHABET = (*SIGNS, *FOREIGN, *ODD, *WORDS)
PIECES = st.one_of(st.sampled_from(ALPHABET), st.characters(exclude_categories=["Cs"]), st.text())
TEXTS = st.lists(st.lists(PIECES, max_size=30).map("".join), min_size=1, max_size=6)
KINDS = list(product([True, False], [None, True, False], [True, False], [True, False]))
ROBERTA = ("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]")
BERT = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")


def make(kind: tuple[Any, ...] = KINDS[0], template: tuple[str, str] = BERT) -> Tokenizer:
    lowercase, strip, chinese, clean = kind
    signs = [*SIGNS, *(f"##{c}" for c in SIGNS if c.isalnum()), *FOREIGN, "##é", "##e"]
    vocabulary = dict.fromkeys([*SPECIAL, *WORDS, *signs])
    made = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(clean, chinese, strip, lowercase)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single=template[0], pair=template[1], special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.add_special_tokens(list(SPECIAL))
    return made


@cache
def of_kind(kind: tuple[Any, ...]) -> tuple[Tokenizer, WordCache]:
    made = make(kind)
    words = WordCache.of(made)
    assert words
    return made, words


@cache
def packaged() -> tuple[Any, WordCache]:
    found = tokenizer.get_tokenizer(check_model(Model()))
    found._rust.no_truncation()
    assert found._words
    return found._rust, found._words


def differing(rust: Any, words: WordCache, texts: list[str]) -> list[str]:
    """The texts whose ids are not the tokenizer's own."""
    found = words.encode(texts)
    assert found
    ids, offsets = found
    plain = rust.encode_batch_fast(texts, add_special_tokens=False)
    bounds = pairwise(offsets)
    by_words = [ids[first:stop].tolist() for first, stop in bounds]
    return [t for t, a, b in zip(texts, by_words, plain, strict=True) if a != b.ids]


@given(TEXTS, st.sampled_from(KINDS))
@settings(max_examples=400, deadline=None)
def test_ids_are_the_tokenizers_own(texts, kind):
    assert differing(*of_kind(kind), texts) == []


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_ids_are_the_packaged_tokenizers_own(texts):
    assert differing(*packaged(), texts) == []


def strings(seed: int, count: int) -> list[str]:
    """Random strings; some of one kind of character, some of code points anywhere."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        way, length = rng.random(), rng.randint(0, 12)
        if way < 0.2:
            points = (rng.randrange(0x110000) for _ in range(length))
            found.append("".join(chr(p) for p in points if not 0xD800 <= p < 0xE000))
        else:
            among = rng.sample(ALPHABET, rng.randint(2, 20)) if way < 0.7 else ALPHABET
            found.append("".join(rng.choices(among, k=length)))
    return found


@pytest.mark.parametrize("count", [4_000, pytest.param(1_000_000, marks=pytest.mark.sweep)])
def test_many_strings_have_the_tokenizers_own_ids(count):
    for seed in range(count // 1000):
        rust, words = of_kind(KINDS[seed % len(KINDS)]) if seed % 3 else packaged()
        assert differing(rust, words, strings(seed, 1000)) == [], seed


@pytest.mark.parametrize("template", [BERT, ROBERTA])
@given(TEXTS, TEXTS, st.integers(1, 40), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_rows_are_filled_and_truncated_as_the_tokenizer_does(
    template, texts, pair_texts, most, left, pair
):
    rust = make(KINDS[0], template)
    form, words = Template.of(rust, pair), WordCache.of(rust)
    assert form
    assert words
    most += form.count
    count = min(len(texts), len(pair_texts))
    columns = [texts[:count], pair_texts[:count]][: 1 + pair]
    found = [each for column in columns if (each := words.encode(column))]
    got = form.fill(*cut(found, most - form.count, left))
    rust.enable_truncation(most, direction="left" if left else "right")
    wanted = rust.encode_batch(list(zip(*columns, strict=True)) if pair else columns[0])
    assert got.ids.tolist() == [id_ for e in wanted for id_ in e.ids]
    assert got.types.tolist() == [type_ for e in wanted for type_ in e.type_ids]
    assert np.diff(got.offsets).tolist() == [len(e.ids) for e in wanted]
    assert got.truncated.tolist() == [bool(e.overflowing) for e in wanted]
    if got.pair_starts is not None:
        starts = [tokenizer._second(e.type_ids, e.sequence_ids) for e in wanted]
        assert got.pair_starts.tolist() == starts


SETS = [
    ("the [SEP] and [sep] of [MASK] [mask]", "[mask] [MASK] [sep] [SEP] [Sep]"),
    ("see <URL> and <url>", "see <url> and <URL>, <Url>"),
    ("A-B a-b", "a-b A-B"),
]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("texts", SETS)
def test_ids_do_not_depend_on_what_was_seen_before(texts, order):
    """Names of special tokens are looked for as they are written, other words in lower case."""
    rust = make()
    rust.add_tokens([AddedToken("<URL>", normalized=False)])
    words = WordCache.of(rust)
    assert words
    words_alone = [word for text in texts for word in text.split()]
    for text in [*texts, *words_alone][::order]:
        assert differing(rust, words, [text]) == []


@given(
    st.lists(st.lists(st.sampled_from([*SPECIAL, "[sep]", "[Mask]", "<URL>", "<url>", *"aA ,("])))
)
@settings(max_examples=300, deadline=None)
def test_named_tokens_in_any_order(texts):
    rust = make()
    rust.add_tokens([AddedToken("<URL>", normalized=False)])
    words = WordCache.of(rust)
    assert words
    for parts in texts:
        assert differing(rust, words, ["".join(parts), " ".join(parts)]) == []


@pytest.mark.parametrize(
    "texts", [["word[SEP]and more " * 9] * 99, ["ก" * 1000] * 9, ["x" * 3000] * 9]
)
def test_text_that_gains_nothing_is_tokenized_plainly(texts):
    spec = check_model(Model())
    made, plain = tokenizer.Tokenizer(spec), tokenizer.Tokenizer(spec)
    assert made._words
    assert made._words.encode(texts) is None
    plain.tokenize_plainly()
    np.testing.assert_array_equal(made.encode(texts).ids, plain.encode(texts).ids)


def test_words_are_forgotten_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(word_cache, "MOST_WORDS", 300)
    rust, words = make(), WordCache.of(make())
    assert words
    for seed in range(20):
        assert differing(rust, words, strings(seed, 100)) == []
        assert len(words._numbers) - len(words._known[0]) <= 300


def changed(**parts: Any) -> Tokenizer:
    made = make()
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def with_token(content: str, **how: bool) -> Tokenizer:
    made = make()
    made.add_tokens([AddedToken(content, **how)])
    return made


@pytest.mark.parametrize(
    "rust",
    [
        changed(pre_tokenizer=pre_tokenizers.ByteLevel()),
        changed(normalizer=normalizers.NFKC()),
        changed(normalizer=None),
        with_token("two words", normalized=False),
        with_token("a.b", normalized=True),
        with_token("foo\u00a0bar", normalized=True),
        with_token("a≠b", normalized=True),
        with_token("\u2000", normalized=True),
        with_token("cat", single_word=True),
        with_token("<m>", lstrip=True, normalized=False),
    ],
)
def test_other_tokenizers_are_not_taken_apart(rust):
    assert WordCache.of(rust) is None


@pytest.mark.parametrize("how", [{"normalized": True}, {"normalized": False}])
def test_added_words_are_found(how):
    rust = with_token("fil", **how)
    words = WordCache.of(rust)
    assert words
    assert (
        differing(rust, words, ["the film", "a Film-fil", "unfilable", "fílm", *strings(3, 500)])
        == []
    )


def test_a_tokenizer_whose_ids_differ_after_all_is_used_plainly(monkeypatch, caplog):
    spec = check_model(Model())
    made = tokenizer.Tokenizer(spec)
    wanted = made.encode(["A small wonder!", "so-so"]).ids.tolist()
    fresh = tokenizer.Tokenizer(spec)
    assert fresh._words
    fresh._words._ids = fresh._words._ids + 1
    assert fresh.encode(["A small wonder!", "so-so"]).ids.tolist() == wanted
    assert "ids differ" in caplog.text
