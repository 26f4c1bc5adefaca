"""Tokens a second of the engine on a GPU, by budget, and of the whole job around it.

Real tokens only. The share of the device's matrix rate is that of plain bf16 products of the
model's own shapes, measured in the same run.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.compare import environment
from benchmarks.corpora import WORKLOADS, generated, write_corpus
from benchmarks.models import NAMES, ROOT, flops, model_folder
from benchmarks.report import Report

SECONDS = 3.0  # of batches for each figure
ROWS = {"short": 60_000, "mixed": 20_000, "long": 4_000}
COLUMNS = (
    *("model", "workload", "tokens a batch", "compiled", "tokens/s", "TFLOP/s"),
    *("of matrix rate", "peak memory"),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="bert-base, mixed, two budgets")
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here")
    name = torch.cuda.get_device_name()
    report = Report(f"bertbatch on {name}", slug=name)
    matrix = matrix_rate()
    report.lines(f"- matrix products: {matrix / 1e12:,.0f} TFLOP/s in bf16")
    models = NAMES[1:] if options.quick else NAMES
    workloads = ("mixed",) if options.quick else WORKLOADS
    budgets = (32768, 65536) if options.quick else (16384, 32768, 65536, 131072)
    rows = [
        engine_row(model, workload, budget, compiled, matrix)
        for model in models
        for workload in workloads
        for compiled in (False, True)
        for budget in budgets
        if not (options.quick and compiled)
    ]
    report.table("the engine alone", COLUMNS, rows)
    if not options.quick:
        ends = [whole_job(model, workload) for model in models for workload in workloads]
        report.table("the whole job on Ray", ("model", "workload", "rows/s", "tokens/s"), ends)


def engine_row(model: str, workload: str, budget: int, compiled: bool, matrix: float) -> list[str]:
    import torch

    from bertbatch.batching import gather
    from bertbatch.engines import batches, load_engine
    from bertbatch.job import Model
    from bertbatch.model import check
    from bertbatch.tokenizer import get_tokenizer

    folder = model_folder(model)
    settings = Model(name=str(folder), tokens_per_batch=budget, compile=compiled)
    spec = check(settings)
    engine = load_engine("torch", spec, settings, "cuda", 8)
    texts = [text for text, _ in zip(generated(workload), range(ROWS[workload]), strict=False)]
    tokens = get_tokenizer(spec).encode(texts)
    ready = [
        (gather(tokens.ids, tokens.offsets, rows), tokens.lengths[rows])
        for rows in batches(engine, tokens.lengths)
    ]
    for ids, lengths in ready[:3]:
        engine.start(ids, lengths).logits()
    torch.cuda.reset_peak_memory_stats()
    done: list[np.ndarray] = []
    began, last = time.perf_counter(), None
    while time.perf_counter() - began < SECONDS:
        ids, lengths = ready[len(done) % len(ready)]
        running = engine.start(ids, lengths)
        if last:
            last.logits()
        last = running
        done.append(lengths)
    if last:
        last.logits()
    seconds = time.perf_counter() - began
    lengths = np.concatenate(done)
    rate = flops(folder, lengths) / seconds
    return [
        *(model, workload, f"{budget:,}", "yes" if compiled else "no"),
        *(f"{lengths.sum() / seconds:,.0f}", f"{rate / 1e12:,.1f}", f"{rate / matrix:.1%}"),
        f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB",
    ]


def whole_job(model: str, workload: str) -> list[str]:
    """The slope between N rows and 4N, as `benchmarks.compare` has it."""
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
    """Operations a second of plain bf16 products, the best of several."""
    import torch

    best = 0.0
    for rows, inner, columns in ((32768, 768, 3072), (65536, 768, 768), (8192, 8192, 8192)):
        a = torch.randn(rows, inner, dtype=torch.bfloat16, device="cuda")
        b = torch.randn(inner, columns, dtype=torch.bfloat16, device="cuda")
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
