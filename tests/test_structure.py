"""The documents and the imports say what the code does, or this fails."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from bertbatch import Job
from bertbatch.cli import app
from bertbatch.job.schema import Attention
from bertbatch.registry import ENGINES, FORMATS, STATISTICS, TASKS
from recipes import docs

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bertbatch"
README = (ROOT / "README.md").read_text()

# Who may import whom: a file imports only from its own folder and from lines above its own.
ORDER = [
    ["errors", "registry", "units"],
    ["statistics"],
    ["job", "storage"],
    ["inputs", "model"],
    ["tasks", "output"],
    ["engines", "plan"],
    ["attention"],
    ["runtime"],
    ["checks"],
    ["display"],
    ["cli"],
    ["__main__"],
]


def modules() -> dict[str, set[str]]:
    """Each module of the package, and the modules of the package that it imports."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(("bertbatch", *path.relative_to(PACKAGE).with_suffix("").parts))
        imported: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
        found[name.removesuffix(".__init__")] = imported
    return found


def room(module: str) -> str:
    """`bertbatch.inputs.formats.csv` is in the room `inputs`."""
    return module.removeprefix("bertbatch").lstrip(".").split(".")[0]


def test_imports_point_one_way():
    level = {name: i for i, names in enumerate(ORDER) for name in names}
    known = modules()
    assert {room(m) for m in known} - {""} == set(level)
    for module, imported in known.items():
        for other in imported & set(known):
            a, b = room(module), room(other)
            if a and b and a != b:
                assert level[a] > level[b], f"{module} imports {other}"


def test_only_executors_and_submit_import_ray():
    for module, imported in modules().items():
        if any(name == "ray" or name.startswith("ray.") for name in imported):
            assert ".runtime.executors." in module or module == "bertbatch.runtime.submit", module


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "{job}"]])
def test_light_commands_import_neither_torch_nor_ray(arguments, tmp_path, tiny_model, corpus):
    job = tmp_path / "job.yaml"
    data = {
        "input": {"path": str(corpus)},
        "output": {"path": str(tmp_path / "out")},
        "model": {"name": tiny_model},
    }
    job.write_text(yaml.safe_dump(data))
    words = [word.format(job=job) for word in arguments]
    code = (
        "import sys; from typer.testing import CliRunner; from bertbatch.cli import app\n"
        f"r = CliRunner().invoke(app, {words!r}); assert r.exit_code == 0, r.output\n"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_job_files_are_valid():
    for path in (ROOT / "jobs").glob("*.yaml"):
        Job.load(path)


@pytest.mark.parametrize("block", docs.BLOCKS)
def test_generated_pages_are_as_generated(block):
    page, make = docs.BLOCKS[block]
    text = (ROOT / page).read_text()
    assert docs.filled(text, block, make()) == text, "run `python -m recipes.docs`"


def test_readme_commands_exist():
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    used = re.findall(r"^\s*(?:\$ )?bertbatch (\w+)", README, re.M)
    assert used
    assert set(used) <= known
    assert known <= set(used), "a command is missing from the README"
    flags = set(re.findall(r"(--[a-z][a-z-]+)", README))
    shown = "".join(
        CliRunner().invoke(app, [c, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).stdout
        for c in known
    )
    elsewhere = {"--working-dir", "--head"}  # Ray's
    for flag in flags - elsewhere:
        assert flag in shown, f"{flag} in the README is no flag"


def test_readme_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)`", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_registries_are_in_the_documents():
    design = (ROOT / "docs" / "design.md").read_text()
    for name in (*FORMATS, *TASKS, *ENGINES):
        assert f"`{name}`" in design, name
    explained = (ROOT / "docs" / "attention.md").read_text()
    for name in STATISTICS:
        assert f"`{name}`" in explained, name
    for name in Attention.model_fields:
        assert f"`attention.{name}`" in explained, name


def test_direct_dependencies_have_a_reason():
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[(.*?)\]", text, re.S | re.M)
    assert block
    design = (ROOT / "docs" / "design.md").read_text()
    pins = (ROOT / "constraints.txt").read_text().lower()
    for name in re.findall(r'"([a-z0-9-]+)', block[1]):
        assert f"`{name}`" in design, f"{name} has no reason in docs/design.md"
        assert f"\n{name.replace('-', '_')}==" in pins.replace("-", "_"), name
