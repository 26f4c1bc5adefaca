"""Tokens a second of the engine on a GPU, by budget, and of the whole job around it.

Real tokens only. The share of the device's matrix rate is that of plain products of the
model's own shapes and precision, measured in the same run.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpora import WORKLOADS, generated, write_corpus
from benchmarks.models import NAMES, ROOT, flops, model_folder
from benchmarks.report import Report

SECONDS = 3.0  # of batches for each figure
ROWS = {"short": 60_000, "mixed": 20_000, "long": 4_000}
BUDGETS = (16384, 32768, 65536, 131072)  # tokens a batch
COLUMNS = (
    *("model", "workload", "tokens a batch", "tokens/s", "TFLOP/s", "of matrix rate"),
    "peak memory",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here")
    name = torch.cuda.get_device_name()
    report = Report(f"bertbatch on {name}", slug=name)
    matrix = matrix_rate()
    report.lines(f"- matrix products: {matrix / 1e12:,.0f} TFLOP/s in half precision")
    for compiled in (False, True):
        rows = [
            row
            for model in NAMES
            for workload in WORKLOADS
            for row in engine_rows(model, workload, compiled, matrix)
        ]
        report.table(f"the engine alone{', compiled' if compiled else ''}", COLUMNS, rows)
    ends = [whole_job(model, workload) for model in NAMES for workload in WORKLOADS]
    report.table("the whole job on Ray", ("model", "workload", "rows/s", "tokens/s"), ends)


def engine_rows(model: str, workload: str, compiled: bool, matrix: float) -> list[list[str]]:
    from bertbatch.engines.engine import EngineOptions, load_engine
    from bertbatch.engines.probe_texts import make_probe
    from bertbatch.job.model import Model
    from bertbatch.model.spec import check_model
    from bertbatch.model.tokenizer import get_tokenizer

    folder = model_folder(model)
    settings = Model(name=str(folder), compile=compiled)
    spec = check_model(settings)
    engine = load_engine(spec, EngineOptions(settings, "cuda", 8))
    engine.settle(make_probe(get_tokenizer(spec), spec.max_length))
    texts = list(islice(generated(workload), ROWS[workload]))
    tokens = get_tokenizer(spec).encode(texts)
    return [
        [model, workload, f"{budget:,}", *engine_rate(engine, tokens, budget, folder, matrix)]
        for budget in BUDGETS
    ]


def engine_rate(
    engine: Any, tokens: Any, budget: int, folder: Path, matrix: float
) -> tuple[str, ...]:
    """Tokens/s, TFLOP/s, the share of the matrix rate, and the most memory."""
    import torch

    from bertbatch.engines.engine import batches

    engine.tokens_per_batch = budget
    ready = [tokens.take(rows) for rows in batches(engine, tokens.lengths)]
    for batch in ready[:3]:
        engine.start(batch).answer()
    torch.cuda.reset_peak_memory_stats()
    done: list[np.ndarray] = []
    began, last = time.perf_counter(), None
    while time.perf_counter() - began < SECONDS:
        batch = ready[len(done) % len(ready)]
        running = engine.start(batch)
        if last:
            last.answer()
        last = running
        done.append(batch.lengths)
    if last:
        last.answer()
    seconds = time.perf_counter() - began
    lengths = np.concatenate(done)
    rate = flops(folder, lengths) / seconds
    return (
        *(f"{lengths.sum() / seconds:,.0f}", f"{rate / 1e12:,.1f}", f"{rate / matrix:.1%}"),
        f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB",
    )


def whole_job(model: str, workload: str) -> list[str]:
    """The slope between N rows and 4N, as `benchmarks.compare` has it."""
    from benchmarks.compare import environment

    seconds, tokens = [], []
    rows = 20 * ROWS[workload]
    with tempfile.TemporaryDirectory(prefix="bertbatch-gpu-") as scratch:
        for count in (rows, 4 * rows):
            source = Path(scratch) / f"{count}.parquet"
            tokens.append(sum(write_corpus(source, workload, count)))
            command = [
                *(sys.executable, "-m", "bertbatch", "score", source, f"{source}.out"),
                *("--model", model_folder(model), "--log", "json"),
            ]
            began = time.perf_counter()
            subprocess.run([str(w) for w in command], cwd=ROOT, env=environment(), check=True)
            seconds.append(time.perf_counter() - began)
    between = seconds[1] - seconds[0]
    return [
        model,
        workload,
        f"{3 * rows / between:,.0f}",
        f"{(tokens[1] - tokens[0]) / between:,.0f}",
    ]


def matrix_rate() -> float:
    """Operations a second of plain products in the engine's precision, the best of several."""
    import torch

    from bertbatch.engines.precision import fast_dtype

    dtype = getattr(torch, fast_dtype("cuda"))

    best = 0.0
    for rows, inner, columns in ((32768, 768, 3072), (65536, 768, 768), (8192, 8192, 8192)):
        a = torch.randn(rows, inner, dtype=dtype, device="cuda")
        b = torch.randn(inner, columns, dtype=dtype, device="cuda")
        for _ in range(3):
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(20):
                a @ b
            torch.cuda.synchronize()
            rate = 20 * 2 * rows * inner * columns / (time.perf_counter() - began)
            best = max(best, rate)
    return best


if __name__ == "__main__":
    main()
