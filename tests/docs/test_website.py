"""The site has every page, and links lead somewhere. `make check` builds it, strictly."""

import re
from pathlib import Path

import pytest

import bertbatch
from recipes import website


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("staged")
    website.Staging(folder).write()
    return folder


def links(page: Path) -> list[str]:
    prose = "".join(website.CODE.split(page.read_text())[::2])
    found = (link["target"] for link in website.MARKED.finditer(prose))
    return [target for target in found if target and "://" not in target]


def test_links_lead_to_pages(staged):
    pages = sorted(staged.rglob("*.md"))
    wrong = [
        (page, link)
        for page in pages
        for link in links(page)
        if not link.endswith((".md", *website.PICTURES))
    ]
    wrong += [
        (page, link) for page in pages for link in links(page) if not (page.parent / link).is_file()
    ]
    assert wrong == []
    assert sum(len(links(page)) for page in pages) > 100


def test_every_page_is_in_the_contents(staged):
    lists = (staged / "index.md").read_text().partition("```{toctree}")[2]
    listed = re.findall(r"^([\w/-]+)$", lists, re.M)
    assert len(listed) == len(set(listed))
    pages = {str(page.relative_to(staged).with_suffix("")) for page in staged.rglob("*.md")}
    orphans = {
        page for page in pages if (staged / f"{page}.md").read_text().startswith("---\norphan")
    }
    assert set(listed) == pages - orphans - {"index"}
    assert {page for page in pages if page.startswith("docs/")} <= set(listed)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[design](design.md#terms)", "[design](design.md#terms)"),
        ("[design.md](design.md#terms)", "[](design.md#terms)"),
        ("[README](../README.md)", "[README](../index.md)"),
        ("[all](README.md)", "[all](../index.md)"),
        ("[jobs/](../jobs/)", "[jobs/](../jobs/index.md)"),
        ("[cluster/](../cluster/)", "[cluster/](../cluster/README.md)"),
        ("[a job](../jobs/score.py)", "[a job](../jobs/score.py.md)"),
        ("[here](#terms)", "[here](#terms)"),
        ("[Ray](https://www.ray.io)", "[Ray](https://www.ray.io)"),
        ("see https://www.ray.io/a.", "see <https://www.ray.io/a>."),
        ("1 < 2\n[design.md](design.md)\n2 > 1", "1 < 2\n[](design.md)\n2 > 1"),
        ("`[a](design.md)` https://a.b", "`[a](design.md)` <https://a.b>"),
        ("```\n[design.md](design.md)\n```", "```\n[design.md](design.md)\n```"),
        ("so:\n\n    curl http://127.0.0.1:8265\n", "so:\n\n    curl http://127.0.0.1:8265\n"),
        ("[gone](../jobs/gone.yaml)", "[gone](../jobs/gone.yaml)"),
    ],
)
def test_links_are_those_of_the_site(text, shown, tmp_path):
    assert website.Staging(tmp_path).linked(text, "docs/input.md") == shown


def test_a_tutorial_is_found_when_it_is_there():
    found = ["docs/input.md", "docs/tutorial-attention.md", "docs/something.md"]
    parts = website.contents(found).split(":caption: ")
    assert [part.split()[0] for part in parts[1:]] == ["How", "More"]
    assert "docs/tutorial-attention\n" in parts[1]
    assert "docs/something\n" in parts[2]


def test_the_reference_has_every_name():
    for name in bertbatch.__all__:
        assert re.search(rf":: bertbatch\.{name}\b", website.api()), name


def test_what_is_fetched_from_elsewhere_is_found(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<a href="https://a.b">a</a><script src="https://c.d/x.js"></script>')
    assert website.remote(page) == ["https://c.d/x.js"]
