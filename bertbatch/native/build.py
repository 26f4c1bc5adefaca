"""Building the kernels, one library for each level of instructions.

`setup.py` runs this file before anything is installed: it needs nothing but Python. The
libraries depend on nothing, not even on the C library, so that they load on every Linux.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCE = "kernels.cpp"
# What a processor must have for each level, as compiler flags; the best level last.
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]
VNNI = [*AVX512, "-mavx512vnni"]
BFLOAT16 = [*VNNI, "-mavx512bf16"]
LEVELS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": AVX512,
    "avx512-vnni": VNNI,
    "avx512-bfloat16": BFLOAT16,
    "amx": [*BFLOAT16, "-mamx-tile", "-mamx-bf16", "-mamx-int8"],
}
FLAGS = [
    *("-std=c++17", "-O3", "-shared", "-fPIC", "-fvisibility=hidden"),
    *("-fno-exceptions", "-fno-rtti", "-fno-math-errno", "-ffp-contract=off"),
    # No calls of memset and the like, which a library without the C library does not have.
    *("-ffreestanding", "-fno-tree-loop-distribute-patterns", "-nostdlib", "-Wl,--no-undefined"),
]
COMPILERS = ("c++", "g++", "clang++")
SECONDS = 300  # for a compiler, which takes 3


class NotBuilt(Exception):
    """Why there are no kernels here."""


@cache
def version() -> str:
    """What the sources are: a library of other sources is not loaded."""
    digest = hashlib.sha256()
    for path in sorted([*FOLDER.glob("*.h"), FOLDER / SOURCE, FOLDER / "build.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def file_name(level: str) -> str:
    return f"kernels-{level}.so"


def build(folder: Path) -> None:
    """Builds into a folder the libraries that the compiler can; old ones lack instructions.

    Raises NotBuilt if there is none.
    """
    using = compiler()
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        failed = list(pool.map(lambda level: _failure(level, using, folder), LEVELS))
    if all(failed):
        raise NotBuilt(f"{using} failed: {failed[0]}")


def compiler() -> str:
    """The C++ compiler here. Raises NotBuilt."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ("x86_64", "AMD64"):
        raise NotBuilt(f"they are for x86-64 processors under Linux, not {sys.platform} {machine}")
    own = os.environ.get("CXX", "")
    found = next(filter(None, map(shutil.which, [own] if own else COMPILERS)), None)
    if found is None:
        raise NotBuilt("there is no C++ compiler (c++, g++, clang++ or $CXX)")
    return found


def _failure(level: str, using: str, folder: Path) -> str:
    """Builds one library; why it cannot be, or nothing."""
    # Renamed when it is complete: a process may have the old one loaded.
    unfinished = folder / f"{file_name(level)}.{os.getpid()}"
    defined = f'-DBERTBATCH_VERSION="{version()}"'
    files = ["-o", str(unfinished), str(FOLDER / SOURCE)]
    command = [using, *FLAGS, *LEVELS[level], defined, *files]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
        unfinished.rename(folder / file_name(level))
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        return str(said[-1] if said else error)
    finally:
        unfinished.unlink(missing_ok=True)
    return ""
