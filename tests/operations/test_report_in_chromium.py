"""A report in a real browser: it loads nothing, runs nothing foreign, and can be used."""

import time

import numpy as np
import pyarrow as pa
import pytest

from bertbatch import run
from bertbatch.output.folder import open_output
from bertbatch.report.page import write_report
from tests.helpers.chromium import Page, browser
from tests.helpers.jobs import make_job
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts
from tests.helpers.written_outputs import single_labels, write_output

HOSTILE = [
    "<script>document.title='hacked'</script>",
    "</script><script>document.title='hacked'</script>",
    '"onmouseover="document.title=`hacked`" x="',
    "<img src=x onerror=\"document.title='hacked'\">",
    "<!--<script>",
    "{{ 7 * 7 }} {% raw %}",
    "\u2028]]>\u2029",
    "\u202egnirts desrever",
    "שלום עולם",
    "a\x00b",
    "$x^2$ \\frac{",
    "javascript:document.title='hacked'",
    "&lt;b&gt; &amp;",
    "x" * 1_000_000,
]


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def attended(tmp_path_factory, tiny_model):
    """A report on an output with statistics, compared with another one."""
    folder = tmp_path_factory.mktemp("attended")
    write_parquet(folder / "in.parquet", make_texts(300), 0)
    for name, share in (("a", 1.0), ("b", 0.5)):
        keys = {"attention.sample": share, "attention.statistics": ["entropy", "to_sep"]}
        job = make_job(tiny_model, folder / "in.parquet", folder / name, **keys)
        assert run(job).exit_code == 0
    to = folder / "report.html"
    write_report(open_output(str(folder / "a")), to, open_output(str(folder / "b")))
    return to


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A report whose every text tries to leave its place: labels, columns, values, reasons."""
    folder = tmp_path_factory.mktemp("hostile")
    labels = [text[:200] for text in HOSTILE]
    rows = len(labels) * 20
    rng = np.random.default_rng(0)
    columns = {
        "body": [HOSTILE[i % len(HOSTILE)] for i in range(rows)],
        '<b onclick="x()">': [labels[i % len(labels)] for i in range(rows)],
        "gold": [labels[(i * 7) % len(labels)] for i in range(rows)],
        "day": [f"2026-11-{1 + i % 28:02d}" for i in range(rows)],
    }
    scores = rng.dirichlet(np.ones(len(labels)), rows)
    write_output(
        folder / "<i>out", single_labels(labels, scores, **columns), labels,
        bad=dict(enumerate(HOSTILE)), unit_rows=50,
        input={"text": "text", "text_pair": None, "carry": {"body": "text"}},
    )  # fmt: skip
    to = folder / "report.html"
    write_report(open_output(str(folder / "<i>out")), to, None, "gold")
    return to


def check_quiet(page: Page) -> None:
    """Nothing but the page itself was asked for, and nothing went wrong."""
    assert page.errors() == []
    assert [url for url in page.requests() if not url.startswith("data:")] == []


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["attended", "hostile"])
def test_a_page_is_quiet_and_fits(chromium, request, which, width, scheme):
    page = chromium.open(request.getfixturevalue(which), width, dark=scheme == "dark")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    check_quiet(page)
    assert page.overflow() == 0
    assert page.evaluate(TOO_WIDE) == []


# What reaches out of the page's side, but for what scrolls in a box of its own.
TOO_WIDE = """[...document.querySelectorAll('main *')].filter(e =>
  e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
  && !e.closest('.scroll') && !e.closest('svg') && !e.classList.contains('unseen'))
  .map(e => e.outerHTML.slice(0, 80))"""


def test_dark_pages_have_dark_charts(chromium, attended):
    colors = {}
    for scheme in ("light", "dark"):
        page = chromium.open(attended, dark=scheme == "dark")
        colors[scheme] = [page.evaluate(what) for what in (
            "getComputedStyle(document.body).backgroundColor",
            "getComputedStyle(document.querySelector('svg text')).fill",
        )]  # fmt: skip
    paper, ink = zip(*colors.values(), strict=True)
    assert brightness(paper[0]) > 240 > 60 > brightness(paper[1])
    assert brightness(ink[0]) < 60 < 200 < brightness(ink[1])


def brightness(color):
    return np.mean([int(part) for part in color.strip("rgb()").split(",")])


def test_on_paper_everything_is_dark_on_white(chromium, attended):
    page = chromium.open(attended, dark=True)
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.call("Emulation.setEmulatedMedia", media="print", features=features)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert brightness(paper) == 255
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.pdf().startswith(b"%PDF")


def test_heatmaps_are_chosen_by_keyboard(chromium, attended):
    page = chromium.open(attended)
    cells = "[...document.querySelectorAll('#attention .cells td')].map(c => c.textContent).join()"
    colors = "[...document.querySelectorAll('#attention .cells td')].map(c => c.style.background)"
    first, painted = page.evaluate(cells), page.evaluate(colors)
    assert len(set(painted)) > 1
    page.evaluate("document.querySelector('#attention select').focus()")
    page.press("ArrowDown")
    second = page.evaluate(cells)
    assert page.evaluate("document.querySelector('#attention select').value") == "to_sep"
    assert second != first
    page.press("Tab")
    assert "group" in page.evaluate("document.activeElement.id")
    page.press("ArrowDown")
    third = page.evaluate(cells)
    assert third != second
    said = page.evaluate("document.querySelector('#attention .range').textContent")
    assert said.startswith("to_sep, label: ")
    check_quiet(page)


def test_a_heatmap_has_its_figures_in_a_table_on_a_telephone(chromium, attended):
    page = chromium.open(attended, 400)
    page.evaluate("document.querySelector('#attention .heatmap summary').focus()")
    page.press("Enter")
    table = "[...document.querySelectorAll('#attention .figures td')]"
    assert page.evaluate(f"{table}.every(c => c.getBoundingClientRect().height > 10)")
    assert page.evaluate(f"getComputedStyle({table}[0]).fontSize") != "0px"
    values = f"{table}.map(c => Number(c.textContent))"
    first = page.evaluate(values)
    assert len(first) == 8
    titles = "[...document.querySelectorAll('#attention .cells td')].map(c => c.title)"
    assert [float(title.rpartition(" ")[2]) for title in page.evaluate(titles)] == first
    page.evaluate("document.querySelector('#attention select').focus()")
    page.press("ArrowDown")
    second = page.evaluate(values)
    assert second != first
    assert [float(title.rpartition(" ")[2]) for title in page.evaluate(titles)] == second


def test_differences_are_colored_around_zero(chromium, attended):
    page = chromium.open(attended)
    cells = "[...document.querySelectorAll('#comparison .cells td')]"
    values = page.evaluate(f"{cells}.map(c => Number(c.title.split(': ')[1]))")
    colors = page.evaluate(f"{cells}.map(c => c.style.background)")
    far = int(np.argmax(np.abs(values)))
    red, _, blue = (int(part) for part in colors[far].strip("rgb()").split(","))
    assert (red > blue) == (values[far] > 0)  # orange is more, purple is less
    assert min(brightness(color) for color in colors) == brightness(colors[far])
    group = "document.querySelector('#comparison select:nth-of-type(2)').selectedOptions[0].text"
    assert page.evaluate(group).startswith("300 of A and ")


def test_tables_are_opened_by_keyboard(chromium, attended):
    page = chromium.open(attended)
    page.evaluate("document.querySelector('details summary').focus()")
    page.press("Enter")
    assert page.evaluate("document.querySelector('details').open")


def test_charts_and_controls_have_names(chromium, attended):
    page = chromium.open(attended)
    assert page.evaluate("[...document.querySelectorAll('select')].every(s => s.labels.length)")
    assert page.evaluate(
        "[...document.querySelectorAll('figure')].every(f => f.querySelector('figcaption')"
        " && f.querySelector('table, details table'))"
    )


def test_hostile_texts_stay_texts(chromium, hostile):
    page = chromium.open(hostile)
    page.evaluate(
        "document.querySelectorAll('main *').forEach(e => {"
        " e.dispatchEvent(new Event('mouseover')); e.dispatchEvent(new Event('error')); })"
    )
    time.sleep(0.1)
    check_quiet(page)
    assert "hacked" not in page.evaluate("document.title")
    assert page.evaluate("document.querySelectorAll('script').length") == 1
    assert page.evaluate("document.querySelectorAll('img, iframe, object, b, i').length") == 0
    assert page.evaluate(
        "[...document.querySelectorAll('*')].flatMap(e => [...e.attributes])"
        ".filter(a => a.name.startsWith('on')).length"
    ) == 0  # fmt: skip
    shown = page.evaluate("document.body.textContent")
    assert "<script>document.title='hacked'</script>" in shown
    assert "\u202e" not in shown
    assert "\x00" not in shown
    assert hostile.stat().st_size < 1_000_000


def test_the_policy_stops_a_script_that_would_get_in(chromium, attended, tmp_path):
    broken = attended.read_text().replace(
        "</main>", "<script>document.title='hacked'</script><img src='http://localhost/x'></main>"
    )
    path = tmp_path / "broken.html"
    path.write_text(broken)
    page = chromium.open(path)
    assert page.evaluate("document.title") != "hacked"
    assert page.errors()


def test_a_million_rows_load_in_two_seconds(chromium, tmp_path):
    rows = 1_000_000
    labels = ["bad", "so so", "good"]
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(3), rows)
    topic = pa.array(rng.integers(0, 9, rows)).cast(pa.string())
    body = pa.array([f"text {i}" for i in range(rows)])
    gold = pa.array(labels).take(pa.array(rng.integers(0, 3, rows)))
    answers = single_labels(labels, scores, body=body, topic=topic, gold=gold)
    write_output(
        tmp_path / "out", answers, labels, unit_rows=50_000,
        input={"text": "text", "carry": {"body": "text", "topic": "topic", "gold": "gold"}},
    )  # fmt: skip
    to = tmp_path / "report.html"
    size = write_report(open_output(str(tmp_path / "out")), to, None, "gold")
    assert size == to.stat().st_size <= 5_000_000
    began = time.monotonic()
    page = chromium.open(to)
    assert time.monotonic() - began < 2
    check_quiet(page)
    assert "1,000,000 rows scored" in page.evaluate("document.body.textContent")
