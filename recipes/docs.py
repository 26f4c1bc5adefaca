"""Writes the generated pages of docs/: `python -m recipes.docs`. The tests compare them."""

import ast
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bertbatch"
OUTSIDE = {
    "jobs/": "complete job files, with the entrypoint of jobs on clusters",
    "cluster/": "ways to get a cluster: KubeRay, Slurm, `ray up`, cron, images",
    "examples/": "the demo's reviews",
    "benchmarks/": "bertbatch and its alternatives side by side; results/ has every run",
    "recipes/": "scripts about the project: generated docs, the audit, the check on a GPU",
    "docs/": "these pages",
    "tests/": "the tests, by what they promise",
}


def first_line(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def tree() -> str:
    """The package's folders and files, each with its first line."""
    lines = ["bertbatch/"]

    def walk(folder: Path, depth: int) -> None:
        inside = sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name))
        for path in inside:
            indent = "  " * depth
            if path.suffix == ".py" and not path.name.startswith("__"):
                lines.append(f"{indent}{path.name:<{30 - len(indent)}} {first_line(path)}")
            elif (path / "__init__.py").exists():
                said = first_line(path / "__init__.py")
                lines.append(f"{indent}{path.name + '/':<{30 - len(indent)}} {said}")
                walk(path, depth + 1)

    walk(PACKAGE, 1)
    lines += [f"{name:<30} {said}" for name, said in OUTSIDE.items()]
    return "```text\n" + "\n".join(line.rstrip() for line in lines) + "\n```"


# Each page has a block between two marks for each of these, and its own words around them.
BLOCKS: dict[str, tuple[str, Callable[[], str]]] = {"tree": ("docs/tree.md", tree)}


def filled(text: str, name: str, block: str) -> str:
    """A page with the block of this name as it is now."""
    pattern = rf"(<!-- generated: {name} -->\n).*?(\n<!-- end -->)"
    done, count = re.subn(pattern, lambda m: m[1] + block + m[2], text, flags=re.S)
    if count != 1:
        raise ValueError(f"{count} blocks named {name}")
    return done


def main() -> None:
    for name, (page, make) in BLOCKS.items():
        path = ROOT / page
        path.write_text(filled(path.read_text(), name, make()))


if __name__ == "__main__":
    main()
