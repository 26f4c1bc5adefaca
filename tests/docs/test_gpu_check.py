"""The check on a GPU says in one line what a machine lacks, and asks for little."""

import subprocess
import sys
import tomllib
import zipfile

import pytest
import torch

from recipes import gpu_check
from tests.helpers.paths import ROOT


@pytest.fixture(autouse=True)
def own_path(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_checked(capsys, tmp_path):
    assert gpu_check.main(["--wheels", str(tmp_path)]) == 2
    assert capsys.readouterr().out.startswith("not checked, for there is no GPU: torch")


@pytest.mark.parametrize("absent", [["pydantic_core"], ["tokenizers", "pytest", "pyarrow"]])
def test_what_is_missing_is_one_line(absent, monkeypatch, capsys, tmp_path):
    for name in absent:
        monkeypatch.setitem(sys.modules, name, None)
    assert gpu_check.main(["--wheels", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert all(name in line for name in absent)
    assert "torch" not in line
    assert str(tmp_path) in line


def test_what_is_too_old_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu_check, "version", lambda name: "2.3" if name == "torch" else "99.1")
    assert gpu_check.main(["--wheels", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert "torch>=" in line
    assert "(has 2.3)" in line
    assert "pyarrow" not in line


def test_wheels_in_a_folder_are_used(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu_check, "NEEDED", ("only_in_a_wheel",))
    assert gpu_check.main(["--wheels", str(tmp_path)]) == 2
    assert "lacks only_in_a_wheel" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "only_in_a_wheel-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("only_in_a_wheel.py", "found = True\n")
    gpu_check.main(["--wheels", str(tmp_path)])
    assert "only_in_a_wheel" not in capsys.readouterr().out
    assert sys.modules.pop("only_in_a_wheel").found


def test_make_needs_no_environment_of_its_own():
    def made(*words: str) -> str:
        command = ["make", "-n", "gpu-check", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout

    assert ".venv" not in made("PYTHON=python3", "WHEELS=brought")
    assert "python3 -m recipes.gpu_check --wheels brought" in made(
        "PYTHON=python3", "WHEELS=brought"
    )
    assert ".venv/bin/python -m recipes.gpu_check --wheels wheels" in made()


def test_what_is_measured_runs(tmp_path):
    """On the CPU with a tiny model; what it finds there means nothing."""
    command = [
        *(sys.executable, "-m", "benchmarks.gpu_quick", "--device", "cpu", "--models", "tiny"),
        *("--seconds", "0.02", "--rows", "60", "--out", tmp_path / "found.md"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1  # one step: there is no fp8 on CPUs
    found = (tmp_path / "found.md").read_text()
    assert found.count("| tiny |") == 8, done.stderr
    assert found.count("Error") == 1
    assert "fp8: JobError: model.dtype fp8 is for GPUs" in found


BLOCKED = """
import sys, tempfile
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions
from pathlib import Path

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, *rest):
        if set(given.get(name.partition(".")[0], ())) & others:
            return None
        return PathFinder.find_spec(name, *rest)

given, others = packages_distributions(), set(sys.argv[1].split())
sys.meta_path[sys.meta_path.index(PathFinder)] = Without
import benchmarks.gpu_quick
import recipes.gpu_check
import tests.answers.test_gpu
import tests.conftest
from bertbatch import run
from tests.helpers.jobs import make_job
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_model, make_texts

folder = Path(tempfile.mkdtemp())
write_parquet(folder / "in.parquet", make_texts(20))
job = make_job(make_model(folder / "model"), folder / "in.parquet", folder / "out")
assert run(job).exit_code == 0
assert not {"ray", "rich", "pandas", "typer"} & set(sys.modules)
"""


def test_nothing_else_is_needed():
    """Neither to import the tests and the benchmark nor to run a job inline."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [
        *project["dependencies"],
        *project["optional-dependencies"]["test"],
        "s3fs",
        "openvino",
    ]
    names = {entry.partition(">")[0].partition("[")[0] for entry in listed}
    needed = {name.replace("_", "-") for name in gpu_check.NEEDED} | {"pyyaml", "bertbatch"}
    others = " ".join(sorted(names - needed))
    assert {"ray", "rich", "typer", "pandas", "hypothesis"} <= set(others.split())
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, others], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
