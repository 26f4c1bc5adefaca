"""Tables on the terminal and in a results file that says when, where and how they came about."""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

from benchmarks.models import ROOT

try:
    from rich.console import Console
    from rich.table import Table
except ImportError:  # a machine with a GPU need not have it: tables are printed as they are stored
    Console = None

RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("bertbatch", "torch", "transformers", "ray", "openvino", "onnxruntime", "pyarrow")


class Report:
    """One run's results, written as they come: an interrupted run keeps its tables."""

    def __init__(self, title: str, path: Path | None = None, slug: str = ""):
        self.path = path or RESULTS / f"{date.today()}-{_slug(slug or cpu())}.md"
        width = None if sys.stdout.isatty() else 160
        self._console = Console(width=width) if Console else None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        command = shlex.join(["python", "-m", _module(), *sys.argv[1:]])
        versions = [f"{name} {found}" for name in PACKAGES if (found := _version(name))]
        self.lines(
            f"# {title}, {date.today()}\n",
            f"- hardware: {hardware()}",
            f"- versions: Python {platform.python_version()}, {', '.join(versions)}{_commit()}",
            f"- command: `{command}`",
        )

    def lines(self, *lines: str) -> None:
        print(*lines, sep="\n", flush=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")

    def table(self, heading: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        lines = [f"\n## {heading}\n", *map(_line, [columns, ["---"] * len(columns), *rows])]
        if self._console:
            shown = Table(*columns, title=heading, title_justify="left")
            for row in rows:
                shown.add_row(*row)
            self._console.print(shown)
        else:
            print(*lines, sep="\n", flush=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


def hardware() -> str:
    flags = _cpuinfo("flags").split()
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{cpu()}, {cores} cores ({', '.join(known)}), {memory:.0f} GiB memory"


def cpu() -> str:
    return _cpuinfo("model name") or platform.machine()


def _cpuinfo(key: str) -> str:
    found = re.search(rf"^{key}\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1).strip() if found else ""


def _slug(name: str) -> str:
    plain = re.sub(r"\((r|tm)\)", "", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def _module() -> str:
    return f"benchmarks.{Path(sys.argv[0]).stem}"


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:
        return ""


def _commit() -> str:
    """The commit that was measured, and whether the tree differed from it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "bertbatch"], capture_output=True)
    if head.returncode:
        return ""
    return f", commit {head.stdout.strip()}{' with changes' if changed.stdout else ''}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
