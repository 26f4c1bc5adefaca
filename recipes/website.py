"""Builds the documentation as a site, from the Markdown files as they are; `make site` runs it.

The files are copied to where they stand in the project, so that links between them need nothing.
Links to other files lead to pages that show these files. Any warning fails: a link to nothing, a
page that no list has.
"""

import ast
import inspect
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import bertbatch

ROOT = Path(__file__).parent.parent
OUT = ROOT / "build" / "site"
# Folders whose Markdown files are pages.
PAGES = ("docs", "cluster", "benchmarks", "recipes", "examples", "bertbatch/model/packaged")
# The contents: under each heading the pages, in this order. A page that no line names comes last.
CONTENTS = {
    "How to": [
        *("docs/operations.md", "docs/input.md", "docs/export.md", "docs/python.md"),
        *("docs/models.md", "docs/tutorial-*.md", "examples/README.md"),
        *("cluster/README.md", "cluster/*/README.md"),
    ],
    "Reference": [
        *("docs/commands.md", "docs/job-file.md", "docs/output.md", "docs/api.md"),
        *("docs/versions.md", "CHANGELOG.md"),
    ],
    "Background": [
        *("docs/attention.md", "docs/reliability.md", "docs/performance.md", "docs/design.md"),
        *("bertbatch/model/packaged/*/README.md", "benchmarks/README.md"),
    ],
    "Development": ["CONTRIBUTING.md", "docs/contributing.md", "docs/tree.md", "recipes/README.md"],
    "More": ["*"],
}
LEFT_OUT = {"docs/README.md"}  # the contents have its place
NOT_LISTED = "benchmarks/results/*"
ORPHAN = "---\norphan: true\n---\n\n"
CODE = re.compile(r"(^```.*?^```|(?<=\n\n)(?:    [^\n]*\n)+)", re.M | re.S)
# What may stand in a page's prose: code, a link, a URL that GitHub makes a link of.
MARKED = re.compile(
    r"`+[^`]+`+|\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)"
    r"|<[^>\n]*>|(?P<url>https?://[^\s)]*[^\s).,;:])"
)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".sbatch": "bash"}
SETTINGS = {
    "project": "bertbatch",
    "extensions": ["myst_parser", "sphinx.ext.autodoc"],
    "html_theme": "furo",
    "html_title": "bertbatch",
    "html_static_path": [str(Path(__file__).with_suffix(".css"))],
    "html_css_files": ["website.css"],
    "html_copy_source": False,
    "html_show_sphinx": False,
    "html_show_copyright": False,
    "highlight_language": "text",
    "myst_heading_anchors": 4,
    "maximum_signature_line_length": 70,
    "python_use_unqualified_type_names": True,
    "default_role": "code",
    "nitpicky": True,
    # Types that are documented elsewhere, or are not exported.
    "nitpick_ignore_regex": [("py:.*", rf"(?!bertbatch\.({'|'.join(bertbatch.__all__)})$).*")],
}


def build(out: Path = OUT) -> int:
    """Writes the site. The exit code: 1 if there was any warning, or it needs the network."""
    from sphinx.application import Sphinx
    from sphinx.util.console import nocolor

    if not sys.stderr.isatty():
        nocolor()
    source = out.parent / f"{out.name}-source"
    for old in (out, source):
        shutil.rmtree(old, ignore_errors=True)
    Staging(source).write()
    app = Sphinx(
        source, None, out, out.parent / f"{out.name}-trees", "html", confoverrides=SETTINGS,
        status=None, warning=sys.stderr, freshenv=True, warningiserror=True,
    )  # fmt: skip
    app.build(force_all=True)
    fetched = [f"{path}: fetches {url}" for path in out.rglob("*.html") for url in remote(path)]
    print("\n".join(fetched), file=sys.stderr, end="")
    return int(bool(app.statuscode or fetched))


def remote(path: Path) -> list[str]:
    """What a page would fetch from elsewhere; links that a reader follows are not."""
    tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", path.read_text())
    return [url for tag in tags for url in re.findall(r"[\"'](https?://[^\"']*)", tag)]


class Staging:
    """The pages, with those that are generated, in a folder of their own."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._shown: set[str] = set()  # files and folders that pages link to

    def write(self) -> None:
        found = sorted(set(markdown()) - LEFT_OUT)
        for name in found:
            before = ORPHAN if fnmatch(name, NOT_LISTED) else ""
            self._write(name, before + self.linked((ROOT / name).read_text(), name))
        self._write("docs/api.md", api())
        start = self.linked((ROOT / "README.md").read_text(), "README.md")
        self._write("index.md", f"{start}\n{contents([*found, 'docs/api.md'])}")
        while waiting := {name for name in self._shown if not (self._folder / page(name)).exists()}:
            for name in sorted(waiting):
                self._write(page(name), self._showing(name))

    def _write(self, name: str, text: str) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def linked(self, text: str, name: str) -> str:
        """A page's text, whose links lead to pages of the site."""

        def replaced(found: re.Match[str]) -> str:
            if found["url"]:
                return f"<{found[0]}>"
            if not found["target"]:
                return found[0]
            # The name of a file as a link's text gives way to what the page is called.
            label = "" if found["text"].endswith(".md") else found["text"]
            target = self._target(found["target"], name)
            return f"[{label}]({target}{found['anchor'] or ''})"

        pieces = CODE.split(text)
        pieces[::2] = [MARKED.sub(replaced, piece) for piece in pieces[::2]]
        return "".join(pieces)

    def _target(self, target: str, name: str) -> str:
        """Where a link of a page leads in the site."""
        if "://" in target:
            return target
        path = (ROOT / name).parent.joinpath(target).resolve().relative_to(ROOT)
        if (ROOT / path / "README.md").exists():
            path = path / "README.md"
        inside = str(path)
        if inside in LEFT_OUT or inside == "README.md":
            inside = "index.md"
        elif path.suffix != ".md" and (ROOT / path).exists():
            self._shown.add(inside)
            inside = page(inside)
        return os.path.relpath(inside, os.path.dirname(name) or ".")

    def _showing(self, name: str) -> str:
        """A page that shows a file as it is, or lists a folder's files."""
        path, heading = ROOT / name, f"{ORPHAN}# {name}\n\n"
        if path.is_file():
            fence = "`" * 4
            return (
                f"{heading}{fence}{LANGUAGES.get(path.suffix, 'text')}\n{path.read_text()}{fence}\n"
            )
        inside = [p for p in sorted(path.iterdir()) if p.is_file() and not p.name.startswith("__")]
        lines = [
            f"- [{p.stem if p.suffix == '.md' else p.name}]({p.name}){said(p)}" for p in inside
        ]
        return heading + self.linked("\n".join(lines), f"{name}/index.md")


def markdown() -> Iterator[str]:
    """The files that are pages, but for the start page."""
    for folder in PAGES:
        yield from (str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.md"))
    yield from ("CHANGELOG.md", "CONTRIBUTING.md")


def page(name: str) -> str:
    """The page that shows a file or a folder."""
    return f"{name}/index.md" if (ROOT / name).is_dir() else f"{name}.md"


def said(path: Path) -> str:
    """What a file's docstring or comment says first."""
    text = path.read_text()
    if path.suffix == ".py":
        return ": " + (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return ": " + text.partition("\n")[0].strip("# ") if path.suffix == ".yaml" else ""


def contents(found: list[str]) -> str:
    """The contents, as Sphinx takes them."""
    left, lists = [name for name in found if not fnmatch(name, NOT_LISTED)], []
    for heading, patterns in CONTENTS.items():
        here = [name for pattern in patterns for name in left if fnmatch(name, pattern)]
        left = [name for name in left if name not in here]
        names = "\n".join(name.removesuffix(".md") for name in dict.fromkeys(here))
        if names:
            lists.append(f"```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{names}\n```\n")
    return "\n".join(lists)


def api() -> str:
    """What the package exports, from its docstrings."""
    named = {name: getattr(bertbatch, name) for name in bertbatch.__all__}
    kinds: dict[str, Callable[[Any], bool]] = {
        "Functions": inspect.isroutine,
        "Classes": lambda value: inspect.isclass(value) and not issubclass(value, Exception),
        "Errors": lambda value: inspect.isclass(value) and issubclass(value, Exception),
    }
    parts = ["# Python API\n\n[From Python](python.md) shows how these are used together.\n"]
    for heading, is_one in kinds.items():
        entries = [entry(name, value) for name, value in named.items() if is_one(value)]
        parts.append(f"## {heading}\n\n```{{eval-rst}}\n" + "\n".join(entries) + "```\n")
    return "\n".join(parts)


def entry(name: str, value: Any) -> str:
    """The directive that documents one name."""
    if inspect.isroutine(value):
        return f".. autofunction:: bertbatch.{name}\n"
    # A job's own signature is its keys, which have a page of their own.
    lines = [f".. autoclass:: bertbatch.{name}()"]
    own = [key for key, member in vars(value).items() if is_public(key, member)]
    lines += [f"   :members: {', '.join(own)}"] if own else []
    return "\n".join([*lines, ""])


def is_public(name: str, member: Any) -> bool:
    """Whether a class's member is a method to call; what checks a job has no docstring."""
    callable_ = inspect.isfunction(member) or isinstance(member, classmethod)
    return callable_ and not name.startswith("_") and bool(member.__doc__)


if __name__ == "__main__":
    code = build()
    print(OUT / "index.html" if not code else "the site has warnings")
    sys.exit(code)
