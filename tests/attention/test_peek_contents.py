"""What a page of `bertbatch peek --html` holds, and which files it replaces."""

import base64
import dataclasses
import json
import re

import numpy as np
import pytest

from bertbatch.attention.inspect import inspect_text
from bertbatch.display.peek_page.page import MOST_TOKENS, Shown, as_json, page
from bertbatch.display.peek_page.weights import packed
from bertbatch.job.model import Model
from tests.helpers.attention_reference import by_definition
from tests.helpers.command_line import invoke
from tests.helpers.taggers import save_tagger
from tests.helpers.tiny import make_model


def data(text):
    """What a page's script reads."""
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text)[1])


@pytest.mark.parametrize("texts", [("ab f gh b",), ("ab f", "gh b ff"), ("",), ("ab " * 90,)])
def test_statistics_are_those_of_their_definitions(texts, tiny_model):
    found = inspect_text(Model(name=tiny_model), *texts, with_statistics=True)
    special = {"[CLS]": 2, "[SEP]": 3}
    ids = np.array([special.get(token, 10) for token in found.tokens])
    wanted = by_definition(found.weights.astype(float), ids, found.pair_start, content=False)
    names = set(wanted) - {"received_mean"}
    assert set(found.statistics) == names - ({"to_other_segment"} if len(texts) == 1 else set())
    for name, values in found.statistics.items():
        np.testing.assert_allclose(values, wanted[name][0], 1e-4, 1e-6, err_msg=name)


def test_without_a_page_no_statistics_are_computed(tiny_model):
    assert inspect_text(Model(name=tiny_model), "ab").statistics == {}


def test_two_bytes_keep_the_digits_that_a_page_shows():
    weights = np.concatenate([np.linspace(0, 1, 100_001), np.geomspace(1e-9, 1, 10_000)])
    roots = np.frombuffer(base64.b64decode(packed(weights)), "<u2") / 65535
    off = np.abs(roots**2 - weights)
    assert (off <= np.sqrt(weights) / 65535 + 1 / 131070**2 + 1e-15).all()
    assert off.max() <= 1 / 65535
    wanted = base64.b64encode(bytes([0, 0, 0, 0, 255, 255])).decode()
    assert packed(np.array([np.nan, -1.0, 2.0])) == wanted


def test_tokens_that_are_alike_are_told_apart(tiny_model):
    text = ("a b a c a", "--model", tiny_model, "--layer", "1", "--head", "1")
    for token, place in (("a", 2), ("a:2", 4), ("a:3", 6), ("a@4", 4), ("@6", 6)):
        code, said = invoke("peek", *text, "--token", token)
        assert code == 0, said
        assert f"from a@{place}:" in said
        numbers = re.search(r"^  (.*)$", said, re.M)[1]
        assert {"b", "c"} & {part.split()[0] for part in numbers.split(", ")}
        assert not re.search(r"\ba \d", numbers)
    for token in ("a:4", "a:0", "a@3", "@9", "@0", ":1", "zz:1"):
        code, said = invoke("peek", *text, "--token", token)
        assert code == 2
        assert "the text has the tokens [CLS] a@2 b a@4 c a@6 [SEP]" in " ".join(said.split())


def test_json_has_nothing_that_ends_a_script():
    hostile = "</script><!-- \u2028\u2029 &amp; \ud800 é"
    text = as_json([hostile])
    assert text.isascii()
    assert not set(text) & set("<>&")
    assert json.loads(text) == [hostile]


def test_numbers_that_are_none_leave_a_page_that_can_be_read(tiny_model):
    found = inspect_text(Model(name=tiny_model), "ab cd", with_statistics=True)
    broken = dataclasses.replace(
        found,
        weights=found.weights * np.nan,
        answer={"label": "negative", "score": np.nan, "scores": [np.nan, np.inf]},
        statistics={name: values * np.nan for name, values in found.statistics.items()},
    )
    held = data(page(Shown(["ab cd"], "tiny", broken, 0, (0, 0))))
    assert held["classes"] == [["negative", None], ["positive", None]]
    assert held["statistics"][0]["values"] == [None] * 8


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"num_labels": 1, "id2label": {0: "value"}, "label2id": {"value": 0}}, "value"),
        ({"problem_type": "multi_label_classification"}, "labels"),
    ],
)
def test_other_tasks(config, named, tmp_path):
    model = make_model(tmp_path / "model", **config)
    code, said = invoke("peek", "ab cd", "--model", model, "--html", str(tmp_path / "a.html"))
    assert code == 0, said
    assert named in dict(data((tmp_path / "a.html").read_text())["answer"])


@pytest.mark.parametrize("tokenizer", ["wordpiece", "bytes"])
def test_entities(tokenizer, tmp_path):
    model = save_tagger(tmp_path / "model", tokenizer)
    code, said = invoke("peek", "Anna ate.", "--model", model, "--html", str(tmp_path / "a.html"))
    assert code == 0, said
    held = data((tmp_path / "a.html").read_text())
    assert [name for name, _ in held["answer"]] == ["entities"]
    assert held["classes"] == []


def test_only_pages_are_replaced(tiny_model, tmp_path):
    def peek(path):
        return invoke("peek", "ab cd", "--model", tiny_model, "--html", str(path))

    code, said = peek(tmp_path / "a.html")
    assert code == 0
    assert "page written to" in said
    first = (tmp_path / "a.html").read_text()
    assert invoke("peek", "ef", "--model", tiny_model, "--html", str(tmp_path / "a.html"))[0] == 0
    assert (tmp_path / "a.html").read_text() != first
    (tmp_path / "mine.html").write_text("<!doctype html><p>mine")
    for other in ("mine.html", ".", "no/folder/a.html", "mine.html/a.html", "a\0b"):
        code, said = peek(tmp_path / other)
        assert code == 2, other
        assert "--html" in said
    assert (tmp_path / "mine.html").read_text() == "<!doctype html><p>mine"


def test_a_token_that_is_not_shown_is_refused(tmp_path):
    path = tmp_path / "a.html"
    code, said = invoke("peek", "very " * 200 + "good", "--token", "good", "--html", str(path))
    assert code == 2
    assert f"beyond the {MOST_TOKENS}" in said
    assert not path.exists()


def test_a_text_longer_than_the_model_takes_is_told(tiny_model, tmp_path):
    peek = ("--model", tiny_model, "--heads", "1")
    for texts, whole in ((("ab " * 90,), 182), (("ab " * 60, "cd " * 10), 143)):
        code, said = invoke("peek", *texts, *peek, "--html", str(tmp_path / "page.html"))
        assert code == 0, said
        warning = f"the text has {whole} tokens, and only 64 of them are scored"
        assert f"warning: {warning}" in " ".join(said.split())
        assert warning in data((tmp_path / "page.html").read_text())["warning"]
    assert "warning" not in invoke("peek", "ab " * 31, *peek)[1]


def test_a_page_that_shows_fewer_tokens_says_so(tmp_path):
    model = make_model(tmp_path / "model", max_position_embeddings=256)
    settings = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    changed = json.dumps({**settings, "model_max_length": 256})
    (tmp_path / "model" / "tokenizer_config.json").write_text(changed)
    words = ("--model", model, "--html", str(tmp_path / "page.html"))
    said = " ".join(invoke("peek", "ab " * 90, *words)[1].split())
    assert f"page.html; it shows the first {MOST_TOKENS} of 182 tokens" in said
    assert "it shows" not in invoke("peek", "ab " * 30, *words)[1]


def test_figures_of_an_answer_have_four_decimals(tiny_model, tmp_path):
    said = invoke("peek", "ab cd", "--model", tiny_model)[1]
    assert re.search(r"^score: 0\.\d{4}$", said, re.M)
    assert re.search(r"^scores: \[0\.\d{4}, 0\.\d{4}\]$", said, re.M)
    regression = make_model(tmp_path / "model", num_labels=1, id2label=None, label2id=None)
    said = invoke("peek", "ab cd", "--model", regression)[1]
    assert re.search(r"^value: -?\d+\.\d{4}$", said, re.M)


def test_a_page_is_named_as_one(tiny_model, tmp_path):
    code, said = invoke("peek", "a", "--model", tiny_model, "--html", str(tmp_path / "page.pdf"))
    assert code == 2
    assert "the name of a page ends in .html or .htm" in said
