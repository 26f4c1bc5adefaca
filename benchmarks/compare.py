"""bertbatch against what else one would use: rows a second, start-up, and whether answers agree.

Every contender is run as a process, on N rows and on 4N. What the 3N rows between cost gives its
rate, so that starting does not count; starting is shown for itself. Contenders take turns, and
the order is reversed in every second round, so that a machine that slows down wrongs none.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow.parquet as pq

from benchmarks.corpora import WORKLOADS, write_corpus
from benchmarks.models import NAMES, ROOT, flops, model_folder
from benchmarks.report import Report

FAST = ("openvino_loop", "torch_loop", "ray_data_tuned", "onnxruntime_int8", "bertbatch_inline")
SLOW = ("transformers_pipeline", "ray_data")  # would take all day over the rows of the others

# N, for 6 to 25 s between N and 4N on two cores; bert-base gets an eighth.
ROWS = {"short": 4800, "mixed": 1200, "long": 300}
SLOW_ROWS = {"short": 400, "mixed": 48, "long": 16}
SLOW_PAIRS = 2
TIMEOUT = 1800  # seconds for one process
# Seconds between N and 4N, below which the noise of starting shows, or hides everything.
TOO_SHORT, FAR_TOO_SHORT = 5, 1

COLUMNS = (
    *("contender", "pairs × rows", "rows/s", "tokens/s", "GFLOP/s", "of matrix rate", "start-up"),
    *("bertbatch ÷ it", "equal labels", "largest difference"),
)


@dataclass(frozen=True)
class Corpus:
    """The files of N and 4N rows, and the tokens of each row; the first N rows are the same."""

    small: Path
    large: Path
    lengths: list[int]

    @property
    def rows(self) -> int:
        return len(self.lengths) // 4

    def between(self) -> list[int]:
        return self.lengths[self.rows :]


@dataclass(frozen=True)
class Pair:
    """Seconds of one contender in one round, over N rows and over 4N."""

    corpus: Corpus
    small: float
    large: float

    @property
    def seconds(self) -> float:
        """What the rows between cost."""
        return self.large - self.small

    @property
    def tokens_per_second(self) -> float:
        return sum(self.corpus.between()) / self.seconds

    @property
    def startup(self) -> float:
        return self.small - sum(self.corpus.lengths[: self.corpus.rows]) / self.tokens_per_second


def main() -> None:
    options = arguments()
    report = Report("bertbatch and its alternatives", options.out)
    rates = matrix_rates()
    matrix = max(rates.values())
    told = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in rates.items())
    report.lines(f"- matrix products with all threads: {told}")
    for model in NAMES if options.model == "all" else (options.model,):
        for workload in WORKLOADS if options.workload == "all" else (options.workload,):
            with tempfile.TemporaryDirectory(prefix="bertbatch-compare-") as scratch:
                compare(options, report, matrix, model, workload, Path(scratch))
    print(f"written to {report.path}")


def compare(
    options: argparse.Namespace,
    report: Report,
    matrix: float,
    model: str,
    workload: str,
    scratch: Path,
) -> None:
    """Runs the rounds of one workload and model, and reports them."""
    folder = model_folder(model)
    fast = make_corpus(options, scratch / "fast", model, workload, ROWS)
    slow = make_corpus(options, scratch / "slow", model, workload, SLOW_ROWS)
    slow_pairs = min(SLOW_PAIRS, options.pairs)
    pairs: dict[str, list[Pair]] = defaultdict(list)
    for number in range(options.pairs):
        for name in turns(options.against, number):
            if name in SLOW and number >= slow_pairs:
                continue
            corpus = slow if name in SLOW else fast
            target = scratch / name
            small = run(name, folder, corpus.small, target)
            large = run(name, folder, corpus.large, target)
            pairs[name].append(Pair(corpus, small, large))
            print(f"{number + 1}/{options.pairs} {name}: {small:.1f} s, {large:.1f} s", flush=True)
    rows = [row(name, pairs, folder, matrix, scratch) for name in turns(options.against, 0)]
    what = f"{options.data.name if options.data else workload}, {model}"
    report.table(what, COLUMNS, rows)
    for name, its in pairs.items():
        if min(pair.seconds for pair in its) < TOO_SHORT:
            report.lines(f"\n{name}: under {TOO_SHORT} s between N and 4N; give more --rows")


def turns(against: list[str], number: int) -> list[str]:
    """Who runs in a round, in order."""
    order = ["bertbatch", *against]
    return order[::-1] if number % 2 else order


def make_corpus(
    options: argparse.Namespace, folder: Path, model: str, workload: str, sizes: dict[str, int]
) -> Corpus:
    rows = sizes[workload]
    if options.rows:
        rows = options.rows * rows // ROWS[workload]
    rows = max(rows // (8 if model == "bert-base" else 1) // (4 if options.quick else 1), 8)
    folder.mkdir()
    small, large = folder / "small.parquet", folder / "large.parquet"
    write_corpus(small, workload, rows, options.data, options.text)
    lengths = write_corpus(large, workload, 4 * rows, options.data, options.text)
    return Corpus(small, large, lengths)


def run(name: str, model: Path, source: Path, target: Path) -> float:
    """Seconds of one process from start to end, into a fresh output."""
    if target.is_dir():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"benchmarks.alternatives.{name}", model, source, target]
    if name.startswith("bertbatch"):
        runner = "inline" if name == "bertbatch_inline" else "ray"
        command = [
            *(sys.executable, "-m", "bertbatch", "score", source, target, "--model", model),
            *("--runner", runner, "--log", "json"),
        ]
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env=environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            code = process.wait(TIMEOUT)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        seconds = time.perf_counter() - began
        if code:
            log.seek(0)
            raise SystemExit(f"{name} failed:\n{log.read().decode(errors='replace')[-3000:]}")
    return seconds


def environment() -> dict[str, str]:
    """Nothing is downloaded, and Ray is this machine."""
    kept = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return {**kept, "HF_HUB_OFFLINE": "1"}


def row(
    name: str, pairs: dict[str, list[Pair]], model: Path, matrix: float, scratch: Path
) -> list[str]:
    """A contender's line of the table: medians over its rounds."""
    ours, theirs = pairs["bertbatch"], pairs[name]
    corpus = theirs[0].corpus
    rates, faster = ["too short"] * 5, ""
    if _measured(theirs):
        count, between = sum(corpus.between()), corpus.between()
        tokens = median(pair.tokens_per_second for pair in theirs)
        operations = tokens * flops(model, between) / count
        rates = [
            f"{tokens * len(between) / count:,.1f}",
            f"{tokens:,.0f}",
            f"{operations / 1e9:,.0f}",
            f"{operations / matrix:.1%}",
            f"{median(pair.startup for pair in theirs):.1f} s",
        ]
    if _measured(ours + theirs):
        # By tokens: the slow contenders have other, fewer rows of the same kind.
        both = zip(ours, theirs, strict=False)  # the slow contenders have fewer rounds
        ratios = [a.tokens_per_second / b.tokens_per_second for a, b in both]
        faster = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    size = f"{len(theirs)} × ({corpus.rows:,}, {4 * corpus.rows:,})"
    if name == "bertbatch":
        return [name, size, *rates, "", "", ""]
    equal, difference, agree = agreement(scratch / "bertbatch", scratch / name)
    inexact = "" if agree else ", inexact"
    return [name, size, *rates, faster, f"{equal:.2%}", f"{difference:.3f}{inexact}"]


def _measured(pairs: list[Pair]) -> bool:
    return all(pair.seconds >= FAR_TOO_SHORT for pair in pairs)


def agreement(one: Path, other: Path) -> tuple[float, float, bool]:
    """The share of equal labels, the largest difference of a score, and whether they agree.

    They agree if no score differs by more than 0.02, and labels differ only where the two
    classes are within 0.02 of each other. Rows that both have are compared.
    """
    a, b = answers(one), answers(other)
    count = min(len(a), len(b))
    a, b = a[:count], b[:count]
    equal = (a > 0.5) == (b > 0.5)
    close = (np.abs(2 * a - 1) <= 0.02) | (np.abs(2 * b - 1) <= 0.02)
    difference = float(np.abs(a - b).max())
    return float(equal.mean()), difference, bool((equal | close).all()) and difference <= 0.02


def answers(path: Path) -> np.ndarray:
    """The probability of `positive` of each row, in order."""
    table = pq.read_table(path, columns=["row", "label", "score"]).sort_by("row")
    if table["row"].to_pylist() != list(range(len(table))):
        raise SystemExit(f"{path} has not every row once")
    positive = np.array([label == "positive" for label in table["label"].to_pylist()])
    score = table["score"].to_numpy()
    return np.where(positive, score, 1 - score)


def matrix_rates() -> dict[str, float]:
    """Operations a second of plain matrix products in each precision, the best of several."""
    from benchmarks.alternatives.plumbing import precisions, product_rates

    shapes = ((2048, 768, 3072), (1024, 768, 768), (1024, 384, 1536))
    return {
        str(dtype).removeprefix("torch."): max(max(product_rates(dtype, s)) for s in shapes)
        for dtype in precisions()
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.compare", description=__doc__)
    parser.add_argument("--workload", choices=[*WORKLOADS, "all"], default="mixed")
    parser.add_argument("--model", choices=[*NAMES, "all"], default="minilm")
    parser.add_argument("--rows", type=int, help="N of the fast contenders; the slow in proportion")
    parser.add_argument("--pairs", type=int, default=5, help="rounds")
    parser.add_argument("--against", nargs="+", choices=FAST + SLOW, default=[*FAST, *SLOW])
    parser.add_argument("--quick", action="store_true", help="two rounds, a quarter of the rows")
    parser.add_argument("--data", type=Path, help="a folder of Parquet or CSV files to use instead")
    parser.add_argument("--text", default="text", help="the column of --data with the text")
    parser.add_argument("--out", type=Path, help="the results file; appended to if it exists")
    options = parser.parse_args()
    if options.quick:
        options.pairs = min(options.pairs, 2)
    return options


if __name__ == "__main__":
    main()
