"""The page of `bertbatch peek --html`, as a browser shows it."""

import numpy as np
import pytest
import torch
import transformers

from bertbatch.display.peek_page.page import MOST_TOKENS
from tests.helpers.chromium import browser
from tests.helpers.classifiers import save_japanese
from tests.helpers.command_line import invoke
from tests.helpers.taggers import SCRIPTS, save_tagger
from tests.helpers.tiny import make_model

HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror=window.hacked=1><svg onload=window.hacked=1>",
    "\"'><b onmouseover=window.hacked=1>a</b><!--<script>",
    "${data} $mark {{ 7 * 7 }} &lt;script&gt; \u2028\u2029 \u202eabc \x00 ]]>",
]
JAPANESE = "これは素晴らしい商品でした。"
BYTES = "Uint8Array.from(atob(data.weights), (c) => c.charCodeAt(0))"
HALF = 0.05 + 0.01  # of the last digit of a percentage


@pytest.fixture(scope="module")
def chromium():
    with browser() as one:
        yield one


@pytest.fixture
def peek(tmp_path):
    """Writes the page of some words of the command line."""

    def write(*words):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.html"
        code, said = invoke("peek", *words, "--html", str(path))
        assert code == 0, said
        return path

    return write


def attentions(model, *texts):
    """Transformers' own weights of a text or a pair: [layers, heads, n, n]"""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    known = transformers.AutoModelForSequenceClassification.from_pretrained(
        model, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        inputs = tokenizer(*texts, return_tensors="pt", truncation=True)
        return torch.cat(known(**inputs, output_attentions=True).attentions).numpy()


def shown(page):
    """The weights in the page: [layers, heads, n, n]"""
    read = "(() => {const data = JSON.parse(document.getElementById('data').textContent);"
    sizes = page.evaluate(f"{read} return [data.layers, data.heads, data.tokens.length]}})()")
    numbers = page.evaluate(f"{read} return [...{BYTES}]}})()")
    roots = np.array(numbers).reshape(-1, 2) @ [1, 256]
    layers, heads, n = sizes
    return (roots.reshape(layers, heads, n, n) / 65535) ** 2


def labels(page):
    """Each token's weight as its label says it, in percent."""
    chips = "[...document.querySelectorAll('#tokens button')]"
    names = page.evaluate(f"{chips}.map((chip) => chip.getAttribute('aria-label'))")
    numbers = [name.rpartition(", ")[2].removesuffix(" %") for name in names]
    return np.array([0.05 if number == "<0.1" else float(number) for number in numbers])


def choose(page, select, value):
    page.evaluate(
        f"(() => {{const chosen = document.getElementById('{select}'); chosen.value = '{value}';"
        "chosen.dispatchEvent(new Event('change'));})()"
    )


@pytest.mark.parametrize("pair", [False, True])
def test_weights_are_those_of_transformers(pair, chromium, peek, tiny_model):
    texts = ["ab cd, ef a b", "xyz q!"][: 1 + pair]
    page = chromium.open(peek(*texts, "--model", tiny_model))
    wanted = attentions(tiny_model, *texts)
    assert np.abs(shown(page) - wanted).max() <= 2 / 65535
    for layer, head, token in ((0, 1, 2), (1, 3, 0), (1, 0, wanted.shape[-1] - 1)):
        choose(page, "layer", layer)
        choose(page, "head", head)
        page.click(f"#tokens button:nth-child({token + 1})")
        page.hover("h1")
        for direction, mine in (
            ("from", wanted[layer, head, token]),
            ("to", wanted[layer, head, :, token]),
        ):
            choose(page, "direction", direction)
            off = np.abs(labels(page) - 100 * mine)
            assert (off <= np.where(mine < 0.0995, HALF, 10 * HALF)).all()
    assert page.errors() == []


def test_small_maps_are_dark_where_weights_are_large(chromium, peek, tiny_model):
    wanted = attentions(tiny_model, "ab cd ef")
    n = wanted.shape[-1]
    for dark in (False, True):
        page = chromium.open(peek("ab cd ef", "--model", tiny_model), dark=dark)
        pixels = page.evaluate(
            "[...document.querySelectorAll('#grid canvas')].map((canvas) => [...canvas"
            ".getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data])"
        )
        light = np.array(pixels).reshape(*wanted.shape, 4)[..., :3] @ [0.299, 0.587, 0.114]
        order = np.argsort(wanted.reshape(-1, n * n), axis=-1)
        sorted_light = np.take_along_axis(light.reshape(-1, n * n), order, -1)
        steps = np.diff(sorted_light if dark else -sorted_light, axis=-1)
        assert steps.min() > -1.5  # colours are whole numbers


def test_pointer_and_keys_change_what_is_shown(chromium, peek):
    page = chromium.open(peek("A cat sat on a mat because it was tired.", "--token", "it"))
    said = "document.getElementById('said').textContent"
    assert page.evaluate(said).startswith("“it” (token 9) attends to: ")
    page.hover("#tokens button:nth-child(3)")
    assert page.evaluate(said).startswith("“cat” (token 3) attends to: ")
    page.hover("h1")
    assert page.evaluate(said).startswith("“it” ")
    page.hover("svg text.to:nth-of-type(6)")
    assert page.evaluate(said).startswith("“cat” (token 3) is attended to by: ")
    page.hover("h1")
    # With keys alone: the grid is one stop, the tokens are another.
    page.evaluate("document.getElementById('number').focus()")
    title = "document.getElementById('one-title').textContent"
    before = page.evaluate(title)
    page.press("Tab")
    for key in ("Home", "ArrowDown", "ArrowRight", "Enter"):
        page.press(key)
    assert before != page.evaluate(title) == "Layer 2, head 2"
    focused = "document.activeElement.getAttribute('aria-label')"
    for _ in range(5):  # layer, head, direction, drawing, tokens
        page.press("Tab")
    assert page.evaluate(focused).startswith("it, token 9, ")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"
    page.press("ArrowLeft")
    assert page.evaluate(said).startswith("“because” (token 8) attends to: ")
    page.press("End")
    assert page.evaluate(said).startswith("“[SEP]” (token 13) attends to: ")
    choose(page, "drawing", "map")
    page.hover("#figure canvas")
    assert "attends to “" in page.evaluate(said)
    choose(page, "number", "5")
    assert ", to cls 0." in page.evaluate("document.querySelector('#grid button').ariaLabel")
    assert page.errors() == page.requests() == []


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_is_run(text, chromium, peek, tmp_path):
    model = make_model(tmp_path / "model", id2label={0: HOSTILE[0], 1: HOSTILE[1]})
    for words in ((text,), (text, text, "--model", model)):
        path = peek(*words)
        page = chromium.open(path)
        for width in (1280, 400):
            page.resize(width)
            page.hover("#tokens button:nth-child(2)")
            assert page.overflow() == 0
        assert page.evaluate("window.hacked") is None
        assert page.evaluate("document.querySelector('blockquote').textContent") == text
        assert page.evaluate("document.scripts.length") == 2
        assert page.errors() == page.requests() == []
        assert "\u2028" not in path.read_text()


def test_the_policy_refuses_what_is_not_the_pages_own(chromium, peek, tiny_model):
    path = peek("ab", "--model", tiny_model)
    path.write_text(path.read_text().replace("</body>", "<script>window.hacked = 1</script>"))
    page = chromium.open(path)
    assert page.evaluate("window.hacked") is None
    page.evaluate("fetch('https://127.0.0.1:9/').catch(() => 0)")
    page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/'}))")
    assert len(page.errors()) >= 3


@pytest.mark.parametrize("second", [False, True])
def test_japanese(second, chromium, peek, tmp_path):
    model = save_japanese(tmp_path / "model")
    texts = [JAPANESE, "また買います。"][: 1 + second]
    page = chromium.open(peek(*texts, "--model", model), 400)
    words = page.evaluate(
        "[...document.querySelectorAll('#tokens button span')].map((word) => word.textContent)"
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    assert words == tokenizer.convert_ids_to_tokens(tokenizer(*texts)["input_ids"])
    assert np.abs(shown(page) - attentions(model, *texts)).max() <= 2 / 65535
    assert page.overflow() == 0
    assert page.errors() == []


@pytest.mark.parametrize("tokenizer", ["bytes", "unigram"])
def test_other_scripts(tokenizer, chromium, peek, tmp_path):
    model = save_tagger(tmp_path / "model", tokenizer)
    for text in (SCRIPTS[script][0] for script in ("Arabic", "Thai", "mixed")):
        page = chromium.open(peek(text, "--model", model), 400)
        assert page.evaluate("document.querySelector('blockquote').textContent") == text
        assert page.overflow() == 0
        assert page.errors() == []


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("drawing", ["lines", "map"])
def test_nothing_is_wider_than_the_window(drawing, width, chromium, peek):
    long = "unbelievably overcooked spaghetti " * 60
    for words in (("A bland plate.",), (long, "Donaudampfschifffahrt" * 4)):
        page = chromium.open(peek(*words), width)
        choose(page, "drawing", drawing)
        assert page.overflow() == 0
        assert page.errors() == []


def test_of_a_long_text_the_beginning_is_shown(chromium, peek):
    text = "cold spaghetti, again, " * 100
    path = peek(text)
    assert path.stat().st_size < 3_500_000  # 72 heads · 128² weights of two bytes, and a third more
    page = chromium.open(path)
    seen = page.evaluate("[...document.querySelectorAll('#tokens > *')].length")
    assert seen == MOST_TOKENS + 1
    note = page.evaluate("document.getElementById('notes').textContent")
    assert "The first 128 of 502 tokens" in note
    whole = labels(page).sum()
    rest = page.evaluate("document.querySelector('#tokens .rest small').textContent")
    assert whole + float(rest.removesuffix(" %")) == pytest.approx(100, abs=8)


def test_tokens_stay_where_they_are(chromium, peek):
    page = chromium.open(peek("A cat sat on a mat , and . was too tired ! " * 5), 400)
    places = (
        "JSON.stringify([...document.querySelectorAll('#tokens button, figure')]"
        ".map((chip) => [chip.offsetLeft, chip.offsetTop, chip.offsetWidth, chip.offsetHeight]))"
    )
    before = page.evaluate(places)
    for head in range(12):
        choose(page, "head", head)
        page.hover(f"#tokens button:nth-child({3 * head + 1})")
        assert page.evaluate(places) == before


def test_it_prints_in_light_colours(chromium, peek, tiny_model):
    path = peek("ab cd", "--model", tiny_model)
    body = "getComputedStyle(document.body).backgroundColor"
    chips = "[...document.querySelectorAll('#tokens button')].map((chip) => chip.style.background)"
    light = chromium.open(path).evaluate(chips)
    page = chromium.open(path, dark=True)
    dark = page.evaluate(chips)
    assert page.evaluate(body) == "rgb(21, 23, 28)"
    assert dark != light
    page.evaluate(f"addEventListener('beforeprint', () => {{ window.printed = {chips} }})")
    assert page.pdf().startswith(b"%PDF")
    assert page.evaluate("window.printed") == light
    assert page.evaluate(chips) == dark
    scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.call("Emulation.setEmulatedMedia", media="print", features=scheme)
    assert page.evaluate(body) == "rgb(255, 255, 255)"
