"""Texts that several units have are found, each once, in bounded memory."""

import random

import numpy as np

from bertbatch.repeats.hashes import text_hashes
from bertbatch.repeats.search import Search
from bertbatch.units import Cut, Source, Span, Unit


def test_any_repeats_are_found(tmp_path):
    draw = random.Random(1)
    for case in range(40):
        folder = tmp_path / str(case)
        folder.mkdir()
        most = draw.choice([3, 40, 2000])
        texts = [
            [f"t{draw.randrange(most)}" for _ in range(draw.randrange(60))]
            for _ in range(draw.choice([1, 3, 150]))
        ]
        sources = [Source(str(i), "", 1, "") for i in range(len(texts))]
        units = [Unit(f"u{s.id}", (Span(s, Cut(0, 1, 0, 1, 1)),)) for s in sources]
        stored = [f"t{i}" for i in range(0, most, 7)] if case % 2 else []
        search = Search(folder, units)
        search.add_stored("stored", text_hashes(stored, []))
        for i in draw.sample(range(len(units)), len(units)):
            search.add(units[i], text_hashes(texts[i], []))
        list(search.partitions())
        search.group(draw.choice([1, 8]))
        where: dict[str, set[int]] = {}
        for i, some in enumerate(texts):
            for text in some:
                where.setdefault(text, set()).add(i)
        several = {t for t, them in where.items() if len(them) > 1 or t in stored}
        firsts: dict[str, str] = dict.fromkeys(stored, "stored")
        for unit in search.first_units():
            joined = [text for span in unit.spans for text in texts[int(span.source.id)]]
            for at in unit.first_texts.tolist():
                assert joined[at] not in firsts, "scored twice"
                firsts[joined[at]] = unit.id
            assert len(unit.first_texts) < 3 * max(search.texts / 4, 64)
        assert set(firsts) - set(stored) == several - set(stored)
        for i, unit in enumerate(units):
            known = search.with_repeats(unit).repeats
            wanted = {text: firsts[text] for text in texts[i] if text in several}
            found = {}
            if known is not None:
                names = [known.files[file] for file in known.file.tolist()]
                found = dict(zip(known.hashes.to_pylist(), names, strict=True))
            hashes = text_hashes(list(wanted), []).to_pylist()
            assert found == dict(zip(hashes, wanted.values(), strict=True))


def test_a_text_that_is_everywhere_takes_one_record_a_unit(tmp_path):
    sources = [Source(str(i), "", 1, "") for i in range(3)]
    units = [Unit(s.id, (Span(s, Cut(0, 1, 0, 1, 1)),)) for s in sources]
    search = Search(tmp_path, units)
    for unit in units:
        search.add(unit, text_hashes(["n/a"] * 10_000, []))
    list(search.partitions())
    assert (search.rows, search.texts) == (30_000, 1)
    search.group(1)
    assert [len(search.with_repeats(unit).repeats.hashes) for unit in units] == [1, 1, 1]


def test_hashes_tell_pairs_and_texts_apart():
    pairs = [("a", "b"), ("ab", ""), ("", "ab"), ("a", "bb"), ("aÿ", "b"), ("a", "ÿb")]
    left, right = zip(*pairs, strict=True)
    hashes = text_hashes(left, right).to_pylist()
    assert len(set(hashes)) == len(pairs)
    assert text_hashes(["é", "é"], []).to_pylist() == text_hashes(["é"], []).to_pylist() * 2
    assert np.all([len(each) == 16 for each in hashes])
