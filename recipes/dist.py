"""Builds the wheel and the sdist, and compares their files with the checkout's.

`make dist` runs it. They are built in a copy, since setuptools remembers files of earlier builds.
Patterns in pyproject.toml can miss new kinds of files: so the lists of files are compared.
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from bertbatch.native.build import LEVELS, file_name

ROOT = Path(__file__).parent.parent

# Beside the package, what the sdist has of the checkout, and what setuptools adds.
BESIDE = {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "constraints.txt"}
BESIDE |= {"pyproject.toml", "setup.py"}
ADDED = ("PKG-INFO", "setup.cfg", "bertbatch.egg-info/")
KERNELS = {f"bertbatch/native/{file_name(level)}" for level in LEVELS}


def build(folder: Path) -> tuple[Path, Path]:
    """The wheel and the sdist, in a folder that has no others.

    Raises ValueError naming the files that one of them lacks or should not have.
    """
    for old in [*folder.glob("*.whl"), *folder.glob("*.tar.gz")]:
        old.unlink()
    with tempfile.TemporaryDirectory() as copied:
        for name in checkout() | BESIDE:
            Path(copied, name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, Path(copied, name))
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), copied]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"build failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    compare(wheel, names_in_wheel(wheel) - KERNELS, checkout())
    compare(sdist, names_in_sdist(sdist), checkout() | BESIDE)
    return wheel, sdist


def checkout() -> set[str]:
    """The package's files, but for those that git ignores."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "bertbatch"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def names_in_wheel(path: Path) -> set[str]:
    """A wheel's files, but for those about the wheel."""
    with zipfile.ZipFile(path) as wheel:
        return {name for name in wheel.namelist() if ".dist-info/" not in name}


def names_in_sdist(path: Path) -> set[str]:
    """An sdist's files, but for those that setuptools adds."""
    with tarfile.open(path) as sdist:
        inside = [m.name.partition("/")[2] for m in sdist.getmembers() if m.isfile()]
    return {name for name in inside if not name.startswith(ADDED)}


def compare(path: Path, found: set[str], wanted: set[str]) -> None:
    """Raises ValueError if a distribution's files are not those that it should have."""
    wrong = [f"  lacks {name}" for name in sorted(wanted - found)]
    wrong += [f"  should not have {name}" for name in sorted(found - wanted)]
    if wrong:
        raise ValueError("\n".join([f"{path.name}:", *wrong]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder to write to")
    given = parser.parse_args()
    try:
        built = build(given.out)
    except ValueError as error:
        print(error)
        return 1
    for path in built:
        print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    if lacking := len(KERNELS - names_in_wheel(built[0])):
        print(f"{lacking} of {len(KERNELS)} kernels for CPUs could not be built here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
