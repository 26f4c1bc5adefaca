"""One wheel for every Python under Linux where a compiler is, else one for every platform."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bertbatch.native import build
from recipes import dist
from tests.helpers.paths import ROOT

COPIED = ("bertbatch", "pyproject.toml", "setup.py", "README.md", "LICENSE")


def has_kernels() -> bool:
    """Whether they can be built here."""
    try:
        build.compiler()
    except build.NotBuilt:
        return False
    return True


def wheel(folder: Path, cxx: str | None) -> tuple[zipfile.ZipFile, str]:
    """The wheel of the package as it is now, and what was said while it was built."""
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *COPIED],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file() and "packaged" not in name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-v"]
    done = subprocess.run(
        [*command, "-w", str(folder / "wheels"), str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, **({"CXX": cxx} if cxx else {})},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (folder / "wheels").glob("*.whl")
    return zipfile.ZipFile(path), done.stdout + done.stderr


@pytest.mark.skipif(not has_kernels(), reason="there is no compiler here")
def test_with_a_compiler_the_wheel_has_the_kernels(tmp_path):
    made, _ = wheel(tmp_path, None)
    assert str(made.filename).endswith("-py3-none-manylinux_2_17_x86_64.whl")
    names = set(made.namelist())
    assert {f"bertbatch/native/{build.file_name(level)}" for level in build.LEVELS} <= names
    assert {f"bertbatch/native/{path.name}" for path in build.FOLDER.glob("*.h")} <= names
    for level in build.LEVELS:  # nothing that another Linux could lack
        needed = made.read(f"bertbatch/native/{build.file_name(level)}")
        assert b"GLIBC" not in needed
        assert b".so." not in needed


def test_without_a_compiler_the_wheel_is_for_every_platform(tmp_path):
    made, said = wheel(tmp_path, "/no/compiler")
    assert str(made.filename).endswith("-py3-none-any.whl")
    assert not [name for name in made.namelist() if name.endswith(".so")]
    assert said.count("bertbatch: no kernels for CPUs, which is slower: ") == 1


@pytest.mark.parametrize("wrong", ["lacks bertbatch/errors.py", "should not have tests/a.py"])
def test_wrong_files_are_named(wrong, tmp_path):
    package = {"bertbatch/errors.py", "bertbatch/units.py"}
    found = package | {"tests/a.py"} if "should" in wrong else package - {"bertbatch/errors.py"}
    with pytest.raises(ValueError, match=wrong):
        dist.compare(tmp_path / "some.whl", found, package)
