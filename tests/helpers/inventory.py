"""What the project has: files, make targets, flags, names in the code."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from typer.main import get_command

import bertbatch
from bertbatch.cli import app

PACKAGE = Path(bertbatch.__file__).parent
ROOT = PACKAGE.parent
CODE = ("bertbatch", "recipes", "benchmarks", "jobs", "examples", "tests", "cluster")


@functools.cache
def files() -> frozenset[str]:
    """Every file and folder of the project, relative to its root."""
    tops = [path for path in ROOT.iterdir() if not path.name.startswith(".") or path.name == ".ci"]
    kept = [path for path in tops if path.name in (*CODE, "docs", ".ci") or path.is_file()]
    below = [path for top in kept for path in top.rglob("*")]
    return frozenset(str(path.relative_to(ROOT)) for path in [*kept, *below])


@functools.cache
def make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


@functools.cache
def flags() -> dict[str, frozenset[str]]:
    """The flags of each command."""
    return {
        name: frozenset(["--help", *(o for p in c.params for o in [*p.opts, *p.secondary_opts])])
        for name, c in get_command(app).commands.items()
    }


@functools.cache
def script_flags() -> frozenset[str]:
    """The flags of the scripts about the project."""
    texts = [path.read_text() for name in ("benchmarks", "recipes") for path in _python_in(name)]
    return frozenset(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', "\n".join(texts)))


def _python_in(folder: str) -> Iterator[Path]:
    return (ROOT / folder).rglob("*.py")


@functools.cache
def members() -> dict[str, set[str]]:
    """What is defined in the modules of a name, and in the classes of a name."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        found.setdefault(path.stem, set()).update(members_of(path))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).update(_defined(node.body))
    return found


@functools.cache
def members_of(path: Path) -> frozenset[str]:
    """What a module defines or imports."""
    return frozenset(_defined(ast.parse(path.read_text()).body))


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.If):
            yield from _defined(node.body)


@functools.cache
def code_words() -> frozenset[str]:
    """Every word of the code, and of scripts and manifests; comments and docstrings left out."""
    words: set[str] = set()
    for path in (ROOT / name for name in sorted(files())):
        # These two hold wrong names, and those from outside.
        if path.suffix == ".py" and path.name not in ("test_docs_are_true.py", "mentions.py"):
            words.update(_words(ast.parse(path.read_text())))
        elif path.suffix in (".sh", ".sbatch", ".yaml") and path.parent.name != "jobs":
            words.update(re.findall(r"\w+", path.read_text()))
    return frozenset(words)


def _words(tree: ast.Module) -> Iterator[str]:
    """The names in a module, and the words in its strings but for docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        said = [getattr(node, key, None) for key in ("id", "attr", "name", "arg", "asname")]
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            value = node.value
            said.append(value.decode("latin-1") if isinstance(value, bytes) else value)
        for text in said:
            yield from re.findall(r"\w+", text) if isinstance(text, str) else ()
