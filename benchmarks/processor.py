"""The engine on this processor, and as if it lacked instructions: `python -m benchmarks.processor`.

For each level of the kernels' instructions that is here: the engine in each precision, with
attention statistics, and without the kernels, beside the loop by hand on OpenVINO, on one thread.
Contenders take turns, each in a process of its own that is warm before it is timed. Below the best
level the libraries are told what they may use, so that one processor stands in for others.
OpenVINO's oneDNN is told, too (on one Xeon float32 took 1.25 times as long at avx2).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from statistics import median
from typing import Any
from unittest.mock import patch

from benchmarks.compare import environment
from benchmarks.corpora import WORKLOADS, generated
from benchmarks.models import NAMES, ROOT, flops, model_folder
from benchmarks.report import Report
from bertbatch.native.build import LEVELS

ROWS = {"short": 600, "mixed": 120, "long": 30}
SMALLER = 3  # bert-base gets so many times fewer rows
# What torch, oneDNN and MKL may use at each level; read when they are loaded.
LIMITS = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "avx512-vnni": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    "avx512-bfloat16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    "amx": {},
}
WITH_HALF = ("avx512-bfloat16", "amx")  # levels with products of bfloat16
PLAIN, FLOAT, HALF, ROUNDED = "float32 without kernels", "float32", "bfloat16", "int8"
WATCHED, LOOP = "auto, with statistics", "openvino_loop"
COLUMNS = ("contender", "tokens/s", "of matrix rate", "÷ float32", "÷ openvino_loop")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.processor", description=__doc__)
    parser.add_argument("--model", choices=NAMES, default="minilm")
    parser.add_argument("--workload", choices=WORKLOADS, default="mixed")
    parser.add_argument("--levels", choices=LEVELS, nargs="+", default=here())
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(timed(given.one, given.levels[0], given.model, given.workload)))
        return
    report = Report("The engine on one thread")
    for level in given.levels:
        half = [HALF] if level in WITH_HALF else []
        names = [PLAIN, FLOAT, *half, ROUNDED, WATCHED, LOOP]
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for turn in range(given.pairs):
            for name in names if turn % 2 == 0 else reversed(names):
                found[name].append(one(name, level, given))
                rate = found[name][-1]["rate"]
                print(f"{turn + 1}/{given.pairs} {level} {name}: {rate:,.0f}", flush=True)
        standing_in = "" if level == here()[-1] else ", a stand-in"
        heading = f"{level}{standing_in}: {given.workload}, {given.model}, {given.pairs} rounds"
        report.table(heading, COLUMNS, [row(name, found) for name in names])


def here() -> list[str]:
    from bertbatch.native.kernels import levels

    return levels()


def row(name: str, found: dict[str, list[dict[str, float]]]) -> list[str]:
    of_matrix = median(run["share"] for run in found[name])
    cells = [f"{median(run['rate'] for run in found[name]):,.0f}", f"{of_matrix:.0%}"]
    for base in (FLOAT, LOOP):
        pairs = zip(found[name], found[base], strict=True)
        ratios = [run["rate"] / other["rate"] for run, other in pairs]
        cells.append(f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return [name, *cells]


def one(name: str, level: str, given: argparse.Namespace) -> dict[str, float]:
    options = ["--model", given.model, "--workload", given.workload, "--levels", level]
    command = [sys.executable, "-m", "benchmarks.processor", *options, "--one", name]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    settings = {**environment(), **threads, **(LIMITS[level] if level != here()[-1] else {})}
    done = subprocess.run(command, cwd=ROOT, env=settings, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def timed(name: str, level: str, model: str, workload: str) -> dict[str, float]:
    """Tokens a second, and the share of the rate of plain matrix products in that precision."""
    import torch

    from benchmarks.alternatives.plumbing import product_rates

    torch.set_num_threads(1)
    rows = ROWS[workload] // (SMALLER if model == "bert-base" else 1)
    texts = list(islice(generated(workload), rows))
    folder = model_folder(model)
    below = list(LEVELS)[: list(LEVELS).index(level) + 1]
    found = None if name == PLAIN else below
    with patch("bertbatch.native.kernels.levels", lambda: found or []):
        score, lengths, dtype = made(name, level, str(folder), texts)
        score()  # warm
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            score()
            seconds.append(time.perf_counter() - began)
    matrix = max(max(product_rates(getattr(torch, dtype), (1024, 768, n))) for n in (768, 3072))
    share = flops(folder, lengths) / min(seconds) / matrix
    return {"rate": sum(lengths) / min(seconds), "share": share}


def made(
    name: str, level: str, folder: str, texts: list[str]
) -> tuple[Callable[[], Any], list[int], str]:
    """What scores the texts once, their lengths in tokens, and the precision of its products."""
    if name == LOOP:
        from benchmarks.alternatives import openvino_loop, plumbing

        half = level in WITH_HALF and "bfloat16" in str(plumbing.fast_dtype())
        forward = openvino_loop.compiled(folder, 1, half)
        tokens = plumbing.tokenize(plumbing.load_tokenizer(folder), texts)
        budget = plumbing.best_budget(forward, tokens)
        lengths = [len(ids) for ids in tokens]
        return lambda: plumbing.score(forward, tokens, budget), lengths, HALF if half else FLOAT
    from benchmarks.attention import loaded_engine
    from bertbatch.engines.scoring import score

    dtype = {WATCHED: "auto" if level in WITH_HALF else FLOAT, PLAIN: FLOAT}.get(name, name)
    engine, ours = loaded_engine(folder, texts, name == WATCHED, dtype=dtype)
    took = HALF if engine.dtype == HALF else FLOAT
    return lambda: score(engine, ours, 0, len(texts)), ours.lengths.tolist(), took


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
