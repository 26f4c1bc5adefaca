"""Prints which folder of the package imports which: `python -m recipes.imports`."""

import ast
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "bertbatch"


def modules() -> dict[str, set[str]]:
    """Each module of the package, with the dotted names that it imports."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(("bertbatch", *path.relative_to(PACKAGE).with_suffix("").parts))
        found[name.removesuffix(".__init__")] = imports_of(path)
    return found


def imports_of(path: Path) -> set[str]:
    """The dotted names that a file imports, modules and what is taken from them."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return imported


def folder(module: str) -> str:
    """The folder or file below `bertbatch/` that a module is in; empty for the package itself."""
    return module.removeprefix("bertbatch").lstrip(".").split(".")[0]


def between_folders() -> dict[tuple[str, str], int]:
    """How many imports there are from one folder of the package to another."""
    known = modules()
    pairs = Counter[tuple[str, str]]()
    for module, imported in known.items():
        for other in imported & set(known):
            if folder(module) != folder(other) and folder(module) and folder(other):
                pairs[folder(module), folder(other)] += 1
    return dict(pairs)


def main() -> None:
    pairs = between_folders()
    for importer in sorted({a for a, _ in pairs}):
        others = sorted((b, count) for (a, b), count in pairs.items() if a == importer)
        print(f"{importer:<12} {', '.join(f'{name} ({count})' for name, count in others)}")


if __name__ == "__main__":
    main()
