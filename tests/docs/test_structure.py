"""Imports point one way, and light commands stay light."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from recipes.docs import first_line
from recipes.imports import folder, imports_of, modules
from tests.helpers.paths import ROOT

PACKAGE = ROOT / "bertbatch"
MOST_LINES = 350

# Who may import whom: a file imports only from its own folder and from lines above its own.
ORDER = [
    ["errors", "registry", "units", "wording"],
    ["native", "statistics"],
    ["job", "storage"],
    ["inputs", "model"],
    ["tasks", "output"],
    ["engines", "plan"],
    ["attention", "repeats"],
    ["runtime"],
    ["checks", "exports"],
    ["display"],
    ["report"],
    ["commands", "python"],
    ["cli"],
    ["__main__"],
]


def test_imports_point_one_way():
    level = {name: i for i, names in enumerate(ORDER) for name in names}
    known = modules()
    assert {folder(m) for m in known} - {""} == set(level)
    for module, imported in known.items():
        for other in imported & set(known):
            a, b = folder(module), folder(other)
            if a and b and a != b:
                assert level[a] > level[b], f"{module} imports {other}"


def test_a_file_has_one_room():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= MOST_LINES, path
        assert " and " not in first_line(path), path


def test_packaged_files_are_in_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package, patterns in settings["package-data"].items():
        folder = ROOT / package.replace(".", "/")
        assert (folder / "__init__.py").exists(), f"{package} is no package"
        assert all(any(folder.glob(pattern)) for pattern in patterns), package


def test_what_the_package_imports_is_declared():
    """Also what is imported when it is used: a fresh environment has nothing else."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for_users = [extras[name] for name in extras.keys() - {"bench", "docs", "release", "test"}]
    declared = [*project["dependencies"], *(one for extra in for_users for one in extra)]
    known = {re.split(r"[^A-Za-z0-9_-]", one)[0].replace("-", "_") for one in declared}
    imported = {name.partition(".")[0] for names in modules().values() for name in names}
    others = imported - set(sys.stdlib_module_names) - {"bertbatch"}
    assert {"pyyaml" if name == "yaml" else name for name in others} <= known


def test_only_executors_and_submit_import_ray():
    for module, imported in modules().items():
        if any(name == "ray" or name.startswith("ray.") for name in imported):
            assert ".runtime.executors." in module or module == "bertbatch.runtime.submit", module


def test_tests_share_by_helpers_alone():
    for path in (ROOT / "tests").rglob("*.py"):
        for name in imports_of(path):
            shared = name.startswith("tests.") and not name.startswith("tests.helpers")
            assert not shared, f"{path} imports {name}"


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
