"""Writes the generated blocks of docs/: `python -m recipes.docs`. The tests compare them."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from bertbatch.cli import app
from bertbatch.job.schema import Job

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


def job_file() -> str:
    """Every key of the job file, section by section."""
    parts = []
    for name, section in sections():
        required = section.get("required", [])
        rows = [
            f"| `{key}` | {kind(shape)} | {'required' if key in required else default(shape)} "
            f"| {shape['description']} | `{EXAMPLES[f'{name}.{key}'.lstrip('.')]}` |"
            for key, shape in section["properties"].items()
            if not nested(shape)
        ]
        said = section["description"]
        heading = f"## `{name}`\n\n{sentence(said)}" if name else "## At the top level"
        head = "| key | type | default | meaning | example |\n|---|---|---|---|---|"
        parts.append("\n".join([f"{heading}\n\n{head}", *rows]))
    return "\n\n".join(parts)


def sentence(said: str) -> str:
    return f"{said[0].upper()}{said[1:]}{'' if said.endswith('.') else '.'}"


def sections() -> list[tuple[str, dict[str, Any]]]:
    """The job's sections by their path, such as `input.csv`, and last what is in none."""
    found = []

    def walk(prefix: str, schema: dict[str, Any]) -> None:
        for key, shape in schema["properties"].items():
            if inner := nested(shape):
                path = f"{prefix}{key}"
                found.append((path, {**inner, "description": shape["description"]}))
                walk(f"{path}.", inner)

    walk("", SCHEMA)
    return [*found, ("", SCHEMA)]


def nested(shape: dict[str, Any]) -> dict[str, Any] | None:
    """The schema of a key that is a section."""
    for one in (shape, *shape.get("anyOf", [])):
        if "$ref" in one:
            return dict(SCHEMA["$defs"][one["$ref"].rpartition("/")[2]])
    return None


def job_keys() -> list[str]:
    """Every key of a job, with its section: `input.path`."""
    return [
        f"{name}.{key}".lstrip(".")
        for name, section in sections()
        for key, shape in section["properties"].items()
        if not nested(shape)
    ]


def kind(shape: dict[str, Any]) -> str:
    """A key's type, or its choices, in words."""
    if "anyOf" in shape:
        return " or ".join(kind(one) for one in shape["anyOf"] if one.get("type") != "null")
    if choices := shape.get("enum", [shape["const"]] if "const" in shape else []):
        return ", ".join(f"`{choice}`" for choice in choices)
    if "$ref" in shape:
        return "mapping"
    if shape["type"] == "array":
        inner = kind(shape["items"])
        return f"list of {inner}" if inner.startswith("`") else f"list of {inner}s"
    bounds = [f"{sign} {shape[key]:g}" for key, sign in BOUNDS.items() if key in shape]
    name = TYPES.get(shape.get("format", ""), TYPES.get(shape["type"], shape["type"]))
    return f"{name} {', '.join(bounds)}".strip()


def default(shape: dict[str, Any]) -> str:
    """A key's default; nothing if it has none or its description says what is meant."""
    value = shape.get("default")
    if value is None or value in ([], {}, ""):
        return ""
    if isinstance(value, list):
        value = ", ".join(value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def example_lines() -> dict[str, str]:
    """The line of each key in `jobs/every-key.yaml`; `#` before one that excludes another."""
    lines: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in (ROOT / "jobs" / "every-key.yaml").read_text().splitlines():
        line = re.sub("^#(?=[a-z])", "", line)
        key = line.strip().partition(":")[0]
        indent = len(line) - len(line.lstrip())
        path = [(depth, name) for depth, name in path if depth < indent] + [(indent, key)]
        if not line.endswith(":") and not key.startswith("#"):
            lines[".".join(name for _, name in path)] = line.strip()
    return lines


SCHEMA = Job.model_json_schema()
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
TYPES = {"object": "mapping", "boolean": "true or false", "date": "date"}
EXAMPLES = example_lines()


def commands() -> str:
    """Every command with its arguments and options."""
    group = typer.main.get_command(app)
    parts = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        rows = list(parameters(command))
        given = [r[0] for r in rows if not r[0].startswith("-")]
        lines = [f"### bertbatch {name}", "", command.help, ""]
        usage = " ".join(["bertbatch", name, *given, *["[OPTIONS]"] * (len(rows) > len(given))])
        lines += [f"    {usage}", ""]
        lines += ["| | type | default | |", "|---|---|---|---|"] if rows else []
        lines += [
            f"| `{names}` | {type_} | {usual} | {said} |" for names, type_, usual, said in rows
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def parameters(command: Any) -> Iterator[tuple[str, str, str, str]]:
    """Each parameter's names, type, default and help."""
    hints = get_type_hints(command.callback, include_extras=True)
    for one in command.params:
        said, usual = one.help, one.show_default if isinstance(one.show_default, str) else ""
        if not one.opts[0].startswith("-"):
            names = one.name.upper() if one.required else f"[{one.name.upper()}]"
        else:
            names = "`, `".join([*one.opts, *one.secondary_opts])
        if one.envvar:
            said = f"{said}; or `{one.envvar}` in the environment"
        if one.default not in (None, False) and not one.required:
            usual = str(one.default).lower() if one.default is True else str(one.default)
        usual = "required" if one.required else usual
        yield names, python_kind(hints[one.name]), usual, said


def python_kind(hint: Any) -> str:
    """A parameter's type in words."""
    if get_origin(hint) is Annotated:
        return python_kind(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(python_kind(one) for one in get_args(hint) if one is not type(None))
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    if get_origin(hint) is list:
        return python_kind(get_args(hint)[0])
    return {str: "text", int: "integer", float: "number", bool: "flag", Path: "path"}[hint]


def quoted(path: str) -> Callable[[], str]:
    """A file of the package as it is."""
    return lambda: f"```python\n{(PACKAGE / path).read_text()}```"


def targets() -> str:
    """What `make` can make."""
    found = re.findall(r"^([a-z-]+):.*?## (.*)$", (ROOT / "Makefile").read_text(), re.M)
    rows = [f"| `make {name}` | {said} |" for name, said in found]
    return "\n".join(["| | |", "|---|---|", *rows])


# Each page has a block between two marks for each of these, and its own words around them.
BLOCKS: dict[str, tuple[str, Callable[[], str]]] = {
    "tree": ("docs/tree.md", tree),
    "job-file": ("docs/job-file.md", job_file),
    "commands": ("docs/commands.md", commands),
    "targets": ("CONTRIBUTING.md", targets),
    "a task": ("docs/contributing.md", quoted("tasks/regression.py")),
    "a statistic": ("docs/contributing.md", quoted("statistics/max_weight.py")),
}


def filled(text: str, name: str, block: str) -> str:
    """A page with the block of this name as it is now."""
    pattern = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
    done, count = re.subn(pattern, lambda m: f"{m[1]}{block}\n{m[2]}", text, flags=re.S)
    if count != 1:
        raise ValueError(f"{count} blocks named {name}")
    return done


def main() -> None:
    for name, (page, make) in BLOCKS.items():
        path = ROOT / page
        path.write_text(filled(path.read_text(), name, make()))
    schema = json.dumps(Job.json_schema(), indent=1, ensure_ascii=False)
    (ROOT / "jobs" / "job.schema.json").write_text(schema + "\n")


if __name__ == "__main__":
    main()
