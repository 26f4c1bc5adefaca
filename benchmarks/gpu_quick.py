"""What to know of a GPU in a few minutes, the most important first: `make gpu-check` ends with it.

Each step is measured by itself, and one that fails says so. With `--device cpu` and a tiny model it
shows only that it runs.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpora import generated, write_corpus
from benchmarks.models import flops, model_folder
from benchmarks.report import Report
from bertbatch.engines.engine import Engine, EngineOptions, batches, load_engine
from bertbatch.engines.probe_texts import make_probe
from bertbatch.engines.scoring import AHEAD, score
from bertbatch.job.model import Model
from bertbatch.job.schema import Attention, Job
from bertbatch.model.spec import check_model
from bertbatch.model.tokenizer import get_tokenizer
from bertbatch.model.tokens import Tokens
from bertbatch.runtime.run import run
from bertbatch.runtime.worker import THREADS, ModelWorker, make_attention_stats

BUDGETS = (16384, 32768, 65536, 131072)  # tokens a batch
UNIT_ROWS = 2_000  # about 200,000 tokens


class Quick:
    def __init__(self, report: Report, device: str, models: list[str], seconds: float, rows: int):
        self._report, self._device, self._seconds = report, device, seconds
        self._models, self._rows = models, rows

    def steps(self) -> list[Callable[[], None]]:
        return [self.budgets, self.units, self.statistics, self.compiled, self.job, self.fp8]

    def budgets(self) -> None:
        """Tokens/s of the engine alone."""
        table = []
        for name in self._models:
            engine, tokens = self._engine(name), self._tokens(name)
            for budget in BUDGETS:
                engine.tokens_per_batch = budget
                rate = self._rate(engine, tokens)
                work = flops(model_folder(name), tokens.lengths) / len(tokens.ids)
                table.append([name, f"{budget:,}", f"{rate:,.0f}", f"{rate * work / 1e12:,.1f}"])
        columns = ["model", "tokens a batch", "tokens/s", "TFLOP/s"]
        self._report.table("The engine alone, mixed texts", columns, table)

    def units(self) -> None:
        """Unit after unit, as in a run, against the endless loop."""
        table = []
        for name in self._models:
            tokens, spec = self._tokens(name), check_model(Model(name=str(model_folder(name))))
            worker = ModelWorker(spec, Model(), self._device, 8, {}, large=True)
            worker.settle(make_probe(get_tokenizer(spec), spec.max_length))
            worker.score(tokens, 0, len(tokens.lengths))  # calibrates
            ends, began = 0, time.perf_counter()
            with ThreadPoolExecutor(THREADS[self._device]) as pool:
                waiting: deque[Any] = deque()
                while time.perf_counter() - began < 2 * self._seconds or waiting:
                    if time.perf_counter() - began < 2 * self._seconds:
                        waiting.append(pool.submit(worker.score, tokens, 0, len(tokens.lengths)))
                    if len(waiting) > 1 or time.perf_counter() - began >= 2 * self._seconds:
                        waiting.popleft().result()
                        ends += 1
            rate = ends * len(tokens.ids) / (time.perf_counter() - began)
            endless = self._rate(worker._engine, tokens)
            table.append([name, f"{rate:,.0f}", f"{endless:,.0f}", f"{rate / endless:.3f}"])
        columns = ["model", "tokens/s by units", "endless loop", "ratio"]
        self._report.table("Unit after unit", columns, table)

    def statistics(self) -> None:
        """The price of attention statistics: in one pass, by tiles."""
        table = []
        for name in self._models:
            tokens = self._tokens(name)
            plain = self._rate(self._engine(name), tokens)
            tokens.sampled[:] = True
            engine: Any = self._engine(name, statistics=True)
            fused = engine._statistics._one_pass is not None
            rate = self._rate(engine, tokens)
            engine._statistics.use_tiles()
            tiles = self._rate(engine, tokens)
            cells = [f"{plain:,.0f}", f"{plain / rate:.2f}" if fused else "tiles"]
            table.append([name, *cells, f"{plain / tiles:.2f}"])
        columns = ["model", "tokens/s without", "price in one pass", "price by tiles"]
        self._report.table("Attention statistics", columns, table)

    def compiled(self) -> None:
        table = []
        for name in self._models:
            tokens = self._tokens(name)
            rates = [self._rate(self._engine(name, compile=c), tokens) for c in (False, True)]
            table.append([name, *(f"{r:,.0f}" for r in rates), f"{rates[1] / rates[0]:.2f}"])
        columns = ["model", "tokens/s", "compiled", "ratio"]
        self._report.table("model.compile", columns, table)

    def job(self) -> None:
        """The whole job in one process, with what the GPU's own tool says meanwhile."""
        table = []
        for name in self._models:
            with tempfile.TemporaryDirectory() as scratch, _Utilization() as watched:
                source = Path(scratch) / "in.parquet"
                tokens = sum(write_corpus(source, "mixed", self._rows))
                job = {
                    "input": {"path": str(source)},
                    "output": {"path": f"{scratch}/out"},
                    "model": {"name": str(model_folder(name))},
                    "runtime": {"runner": "inline", "device": self._device},
                }
                seconds = run(Job.build(job)).totals["scoring_seconds"]
            cells = [f"{self._rows / seconds:,.0f}", f"{tokens / seconds:,.0f}", str(watched)]
            table.append([name, *cells])
        columns = ["model", "rows/s", "tokens/s", "GPU busy by nvidia-smi, median"]
        self._report.table("The whole job, one process", columns, table)

    def fp8(self) -> None:
        """Labels and tokens/s in fp8 beside the default precision."""
        table = []
        for name in self._models:
            tokens = self._tokens(name)
            engines = [self._engine(name), self._engine(name, dtype="fp8")]
            logits = [
                score(engine, tokens, 0, len(tokens.lengths)).answers.values for engine in engines
            ]
            differ = float((logits[0].argmax(1) != logits[1].argmax(1)).mean())
            rates = [self._rate(engine, tokens) for engine in engines]
            table.append([name, f"{differ:.2%}", *(f"{rate:,.0f}" for rate in rates)])
        columns = ["model", "labels that differ", "tokens/s", "in fp8"]
        self._report.table("fp8", columns, table)

    def _engine(self, name: str, statistics: bool = False, **settings: Any) -> Engine:
        asked = Model(name=str(model_folder(name)), **settings)
        spec = check_model(asked)
        stats = make_attention_stats(spec, Attention(), 8) if statistics else None
        engine = load_engine(spec, EngineOptions(asked, self._device, 8, stats))
        engine.settle(make_probe(get_tokenizer(spec), spec.max_length, sample=[]))
        return engine

    def _tokens(self, name: str) -> Tokens:
        spec = check_model(Model(name=str(model_folder(name))))
        return get_tokenizer(spec).encode(
            list(islice(generated("mixed"), min(self._rows, UNIT_ROWS)))
        )

    def _rate(self, engine: Engine, tokens: Tokens) -> float:
        """Tokens/s of an endless loop over the same batches."""
        plan = list(batches(engine, tokens.lengths))
        wanted = bool(tokens.sampled.all())
        ready = [tokens.take(rows, wanted) for rows in plan]
        for batch in ready[:3]:
            engine.start(batch).answer()
        running: deque[Any] = deque()
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < self._seconds:
            for batch in ready:
                running.append((len(batch.ids), engine.start(batch)))
                if len(running) > AHEAD:
                    count, answer = running.popleft()
                    answer.answer()
                    if answer.statistics:
                        answer.statistics()
                    done += count
        return done / (time.perf_counter() - began)


class _Utilization:
    """The GPU's busy share, by `nvidia-smi dmon` once a second; "unknown" without it."""

    def __enter__(self) -> "_Utilization":
        command = ["nvidia-smi", "dmon", "-s", "u", "-c", "600"]
        here = shutil.which(command[0])
        self._process = (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) if here else None
        )
        self._shares: list[int] = []
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.terminate()
            said = self._process.communicate()[0]
            rows = (line.split() for line in said.splitlines() if not line.startswith("#"))
            self._shares = [int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()]

    def __str__(self) -> str:
        return f"{np.median(self._shares):.0f} %" if self._shares else "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu_quick", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", default=["minilm", "bert-base"])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    parser.add_argument("--rows", type=int, default=100_000, help="of the whole job")
    parser.add_argument("--out", type=Path, help="the results file; appended to if it exists")
    given = parser.parse_args()
    report = Report(f"bertbatch on {given.device}, quickly", given.out, slug=given.device)
    failed = 0
    for step in Quick(report, given.device, given.models, given.seconds, given.rows).steps():
        try:
            step()
        except Exception as error:  # the next figure may be there all the same
            failed += 1
            report.lines(f"\n{step.__name__}: {type(error).__name__}: {error}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
