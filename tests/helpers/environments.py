"""Environments as pip would make them, without downloading again what is installed here."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement


class Environment:
    """A new environment that also sees what some requirements need of what is installed here.

    Nothing else is seen, above all not the checkout: what the requirements forgot is missing.
    """

    def __init__(self, folder: Path, requirements: Iterable[str]):
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        (self.site,) = (folder / "lib").glob("python*/site-packages")
        for old in self.site.glob("setuptools*"):  # Python's own, before what is needed
            shutil.rmtree(old)
        shared = folder / "shared"
        shared.mkdir()
        for found in set(needed(requirements)):
            for path in top_level(found):
                if not (shared / path.name).exists():
                    (shared / path.name).symlink_to(path)
        (self.site / "shared.pth").write_text(f"{shared}\n")

    def run(self, *words: str | Path, cwd: Path, code: int = 0) -> str:
        """What a program of the environment printed; it must exit with this code."""
        kept = {key: os.environ[key] for key in ("HOME", "LANG", "TMPDIR") if key in os.environ}
        environment = {
            **kept,
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        done = subprocess.run(
            list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout


def needed(requirements: Iterable[str]) -> Iterator[str]:
    """The names of what is installed here of requirements, and of what these require."""
    waiting = [Requirement(one) for one in requirements]
    seen: set[tuple[str, str]] = set()
    while waiting:
        one = waiting.pop()
        for extra in ("", *one.extras):
            if (one.name, extra) in seen:
                continue
            seen.add((one.name, extra))
            try:
                inner = distribution(one.name).requires or []
            except PackageNotFoundError:
                continue
            yield distribution(one.name).metadata["Name"]
            for other in map(Requirement, inner):
                if other.marker is None or other.marker.evaluate({"extra": extra}):
                    waiting.append(other)


def top_level(name: str) -> set[Path]:
    """What a distribution has in its site-packages."""
    found: Distribution = distribution(name)
    site = Path(str(found.locate_file("")))
    tops = {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "")}
    return {site / top for top in tops if top != "__pycache__" and (site / top).exists()}
