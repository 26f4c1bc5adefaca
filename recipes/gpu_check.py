"""The check on a machine with a GPU, by the Python that runs this: `make gpu-check` does.

Such a machine may be offline and have a torch of its own. What the check needs is looked at
first, and what is missing is named in one line; wheels in a folder are unpacked for it. Ray is
not needed.
"""

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parent.parent
# What the inline runner and the tests of the GPU import, deepest first.
NEEDED = (
    *("numpy", "typing_extensions", "annotated_types", "typing_inspection", "pydantic_core"),
    *("pydantic", "yaml", "fsspec", "pyarrow", "safetensors", "tokenizers", "huggingface_hub"),
    *("torch", "transformers", "pytest"),
)
STEPS = (
    ("-m", "pytest", "-m", "gpu", "-rs", "-p", "no:cacheprovider", "tests/answers/test_gpu.py"),
    ("-m", "benchmarks.gpu_quick"),
)


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 2 if nothing could be checked, else the first one that is not 0."""
    parser = argparse.ArgumentParser(prog="recipes.gpu_check", description=__doc__)
    parser.add_argument("--wheels", type=Path, default=ROOT / "wheels", help="a folder of wheels")
    wheels = parser.parse_args(arguments).wheels
    with tempfile.TemporaryDirectory(prefix="bertbatch-wheels-") as unpacked:
        for wheel in sorted(wheels.glob("*.whl")):
            zipfile.ZipFile(wheel).extractall(unpacked)
        sys.path.insert(0, unpacked)
        importlib.invalidate_caches()
        if wrong := [*missing(), *too_old()]:
            print(
                f"not checked, for this Python lacks {', '.join(wrong)}: put wheels into {wheels}"
            )
            return 2
        import torch

        if not torch.cuda.is_available():
            print(f"not checked, for there is no GPU: torch {torch.__version__} finds none here")
            return 2
        paths = [unpacked, str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        codes = [
            subprocess.run([sys.executable, *step], cwd=ROOT, env=environment).returncode
            for step in STEPS
        ]
    return next((code for code in codes if code), 0)


def missing() -> list[str]:
    """The modules that cannot be imported."""
    absent = []
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            absent.append(error.name or name)
    return list(dict.fromkeys(absent))


def too_old() -> list[str]:
    """Requirements of the package, of those that are here, that this Python does not meet."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    unmet = []
    for requirement in project["dependencies"]:
        name, _, least = requirement.partition(">=")
        try:
            if name.replace("-", "_") in (*NEEDED, "pyyaml") and _key(version(name)) < _key(least):
                unmet.append(f"{requirement} (has {version(name)})")
        except PackageNotFoundError:
            continue  # it can be imported, and does not say which it is
    return unmet


def _key(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.partition("+")[0].split(".")[:2] if part.isdigit())


if __name__ == "__main__":
    sys.exit(main())
