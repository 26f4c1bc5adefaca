"""The parts of the recipe of the packaged model, on a tiny BERT and a few texts."""

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from recipes.sentiment_mini import stages, training
from recipes.sentiment_mini.calibration import Calibration, fit, fold, recalls
from recipes.sentiment_mini.compose import Composer, Sources, window
from recipes.sentiment_mini.measure import answered, calibration_error, margins, measure
from recipes.sentiment_mini.prose import read_tagged, weak_target
from recipes.sentiment_mini.sentences import Writer, lines
from recipes.sentiment_mini.settings import Settings
from recipes.sentiment_mini.stages import Stages, same_training
from recipes.sentiment_mini.texts import Split, read_texts, split
from tests.helpers.tiny import make_model, make_texts

LEXICON = {"lovely": 2.0, "awful": -2.0, "helpful": 2.0, "useless": -1.8, ":)": 2.0, ":(": -1.9}
TINY = Settings(
    epochs=2, snippets=4, everyday=6, neutral=2, composed=3, batch_rows=4, max_tokens=64,
    candidates=2, hidden_dropout=0.3,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("sentiment") / "tiny")


@pytest.fixture
def sources() -> Sources:
    rows = [(f"a {word} thing", label) for label in (0, 1) for word in ("red", "big", "old")]
    part = Split(training=rows)
    review = "\n".join(["one sentence of a review .", "another sentence of it ."] * 4)
    prose = [(f"it is number {i}", 0.4 + i / 1e6) for i in range(40)]
    return Sources(part, part, Split(training=[(review, 1), (review, 0)]), prose)


@pytest.fixture
def composer(folder, sources) -> Composer:
    return Composer(AutoTokenizer.from_pretrained(folder), sources, writer(), TINY)


def writer(development: bool = False) -> Writer:
    return Writer(LEXICON, set(LEXICON), development)


@pytest.mark.parametrize("name", ["pairs.txt", "events.txt"])
def test_every_frame_has_its_mirror(name):
    pairs = [frame.split(" | ") for frame in lines(name)]
    assert all(len(pair) == 2 and pair[0] != pair[1] for pair in pairs)
    assert len({frame for pair in pairs for frame in pair}) == 2 * len(pairs)
    slots = {slot for pair in pairs for frame in pair for slot in re.findall(r"{(\w+)}", frame)}
    assert slots <= writer().slots.keys()


def test_the_same_draw_has_both_labels():
    own = writer()
    own.opinions, own.events = ["it was {good}. | it was {bad}."], ["we won! | we lost."]
    for seed in range(40):
        good, bad = (own.labelled(label, random.Random(seed)) for label in (1, 0))
        assert good.startswith(("it", "we won"))
        assert bad.startswith(("it", "we lost"))
        assert good != bad
        words = {word for word in re.findall(r"[a-z]+", good) if LEXICON.get(word, 0) < 0}
        assert not words


def test_noise_without_a_label_has_no_opinion():
    own = writer()
    noisy = " ".join(own.noise("it is here", None, random.Random(seed)) for seed in range(200))
    assert "@" in noisy
    assert "#" in noisy
    assert not set(LEXICON) & set(noisy.replace("#", "").split())


def test_the_sides_of_a_split_share_nothing():
    texts = [(f"Text {i // 2}{'!' if i % 2 else ''}", i // 2 % 2) for i in range(800)]
    parts = split([*texts, ("Both", 0), ("both.", 1), ("...", 1)], fold=0)
    rows = [parts.training, parts.development, parts.held_out]
    keys = [{text.rstrip("!") for text, _ in part} for part in rows]
    assert sum(map(len, rows)) == len(set.union(*keys)) == 400
    assert len(keys[2]) == pytest.approx(40, abs=20)
    assert len(keys[1]) == pytest.approx(24, abs=15)
    assert not set(writer().opinions) & set(writer(development=True).opinions)


def test_both_kinds_of_files_are_read(tmp_path):
    (tmp_path / "a.csv").write_text("label,text\nnegative,no\npositive,yes\n")
    (tmp_path / "b.csv").write_text('\ufeff"-1","no"\n"1","yes"\n')
    for name in ("a.csv", "b.csv"):
        assert read_texts(tmp_path / name) == [("no", 0), ("yes", 1)]


def test_an_epoch_hangs_on_its_number_alone(composer):
    first, second = composer.epoch(0), composer.epoch(1)
    assert composer.epoch(0) == first != second
    assert all(len(ids) <= TINY.max_tokens and 0 <= target <= 1 for ids, target in first)
    assert sum(target == TINY.neutral_target for _, target in first) == TINY.neutral


def test_a_window_has_whole_sentences():
    sentences = [[i] * 30 for i in range(9)]
    for seed in range(50):
        ids = window(sentences, random.Random(seed))
        assert len(ids) % 30 == 0
        assert ids == sorted(ids)
        assert len(ids) <= 384


def test_a_resumed_training_has_the_same_weights(composer, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_SECONDS", -1.0)
    steps, real, calls = training.plan(composer, TINY), training.loss_of, 0

    def stops(*args):
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return real(*args)

    def trained(name: str) -> list[dict[str, torch.Tensor]]:
        (tmp_path / name).mkdir(exist_ok=True)
        files = training.train(training.new_model(Path(folder), TINY), steps, TINY, tmp_path / name)
        return [torch.load(file) for file in files]

    whole = trained("whole")
    monkeypatch.setattr(training, "loss_of", stops)
    with pytest.raises(KeyboardInterrupt):
        trained("twice")
    resumed = trained("twice")
    assert calls == len(steps) + 1
    assert len(whole) == TINY.candidates
    for a, b in zip(whole, resumed, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_another_training_s_folder_is_refused(tmp_path):
    same_training(tmp_path, {"seed": 1, "examples": training.digest([[([2, 3], 0.5)]])})
    same_training(tmp_path, {"seed": 1, "examples": training.digest([[([2, 3], 0.5)]])})
    with pytest.raises(SystemExit, match=r"another training; not the same: examples"):
        same_training(tmp_path, {"seed": 1, "examples": training.digest([[([2, 3], 1)]])})


def test_branches_go_on_from_the_mean_of_the_long_training(folder, sources, tmp_path, monkeypatch):
    """And theirs is the mean of all, as it is after an interruption."""
    ways = [
        {"epochs": 1, "candidates": 1, "seed": seed, "prose": 20, "lr": 1e-3} for seed in (1, 2)
    ]
    monkeypatch.setattr(stages, "BRANCHES", ways)

    def trained(name: str) -> list[dict[str, torch.Tensor]]:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        all_ = Stages(tmp_path / name, tokenizer, sources, writer(), {})
        files = all_.candidates(training.new_model(Path(folder), TINY), TINY)
        return [torch.load(file) for file in files]

    first, *branches, last = trained("whole")
    assert len(branches) == 2
    for key, value in last.items():
        if value.is_floating_point():
            own = torch.stack([state[key] for state in (first, *branches)])
            assert torch.equal(value, own.mean(0))
    assert not torch.equal(*(state["classifier.weight"] for state in branches))
    kept = [torch.load(file) for file in sorted((tmp_path / "whole" / "first").glob("average-*"))]
    key = "classifier.weight"
    expected = torch.stack([state[key] for state in kept]).mean(0)
    torch.testing.assert_close(first[key], expected)
    again = trained("whole")  # nothing is left to be done
    for a, b in zip((first, *branches, last), again, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_prose_has_targets_by_the_ratings_of_its_words(tmp_path):
    rows = [
        "It/PRP was/VBD n't/RB awful/JJ at/IN all/DT ./.",
        "Too/RB short/JJ",
        "a/DT b/x c/x d/x",
    ]
    (tmp_path / "tagged.txt").write_text("\n".join([*rows, rows[0], "and/or/CC b/x c/x d/x"]))
    found = read_tagged(tmp_path / "tagged.txt")
    assert found == ["It wasn't awful at all .", "a b c d", "and/or b c d"]
    neutral = weak_target("a b c d", LEXICON)
    assert 0.5 < neutral < 0.65
    assert weak_target("A lovely thing", LEXICON) > neutral > weak_target("so awful", LEXICON)
    assert weak_target("it was not awful", LEXICON) > neutral > weak_target("not lovely", LEXICON)
    assert 0 < weak_target("awful " * 99, LEXICON) < weak_target("lovely " * 99, LEXICON) < 1


def test_the_averages_kept_are_of_the_second_half():
    assert training.kept_steps(800, replace(TINY, candidates=4)) == [500, 600, 700, 800]


def test_the_head_answers_as_calibrated(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [(text, 0) for text in ("a b c", "it was fine", "no", "what is this and that?")]
    before = margins(model, tokenizer, texts)[0]
    fold(model, Calibration(bias=0.3, temperature=1.7))
    after = margins(model, tokenizer, texts)[0]
    torch.testing.assert_close(after, (before + 0.3) / 1.7)


def test_a_saved_model_is_measured_by_its_answers(folder):
    texts = [(text[:60], i % 2) for i, text in enumerate(make_texts(200))]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    expected, lengths = margins(model, AutoTokenizer.from_pretrained(folder), texts)
    found, found_lengths = answered(Path(folder), texts)
    torch.testing.assert_close(found.float(), expected, atol=1e-3, rtol=1e-3)
    assert torch.equal(found_lengths, lengths)
    figures = measure(Path(folder), {"texts": texts})["texts"]
    right = (expected > 0).long() == torch.tensor([label for _, label in texts])
    assert figures["rows"] == 200
    assert figures["accuracy"] == pytest.approx(right.float().mean().item())
    low, high = figures["accuracy_interval"]
    assert low < figures["accuracy"] < high


def test_bias_and_temperature_are_found():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4000) % 2
    true = 1.5 * (2 * labels - 1) + torch.randn(4000, generator=generator) * 3**0.5
    found = fit({"one kind": (2 * true - 0.5, labels)})  # right are: bias 0.5, temperature 2
    assert found.bias == pytest.approx(0.5, abs=0.2)
    assert found.temperature == pytest.approx(2, abs=0.2)
    fitted = (2 * true - 0.5 + found.bias) / found.temperature
    negative, positive = recalls(fitted, labels)
    assert negative == pytest.approx(positive, abs=0.02)
    assert calibration_error(fitted, labels) < 0.03 < calibration_error(5 * true, labels)
