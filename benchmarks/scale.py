"""What size costs: rows, units, sources, parts that are there already, and tokenizing.

A tiny model makes the forward pass cheap, so that what is left is bertbatch's own work.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from benchmarks.compare import environment
from benchmarks.corpora import write_corpus
from benchmarks.models import ROOT, model_folder
from benchmarks.report import Report
from benchmarks.stages import stages
from benchmarks.tokenizing import tokenizing
from bertbatch import Job
from bertbatch.attention.aggregates import ALL, LABEL, Group, aggregate, length_groups
from bertbatch.engines.scoring import Statistics
from bertbatch.inputs.rows import quarantine
from bertbatch.model.spec import check_model
from bertbatch.model.tokens import Answers
from bertbatch.output import commit
from bertbatch.output.contract import make_contract
from bertbatch.runtime.preflight import Preflight, check_job
from bertbatch.tasks.task import task_of
from bertbatch.units import Unit


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.scale", description=__doc__)
    parts = [*PARTS, "tokenizer"]
    parser.add_argument("--part", choices=parts, nargs="+", default=parts)
    parser.add_argument("--data", type=Path, help="for the tokenizer: a file or a folder of texts")
    parser.add_argument("--column", default="text", help="its column; default %(default)s")
    parser.add_argument("--model", default="", help="its model; default the packaged one")
    parser.add_argument("--fraction", type=float, default=1.0, help="of every size")
    parser.add_argument("--out", type=Path, help="the results file; appended to if it exists")
    options = parser.parse_args()
    report = Report("bertbatch's cost against size", options.out)
    for name in options.part:
        if name == "tokenizer":
            tokenizing(report, options.fraction, options.data, options.column, options.model)
            continue
        with tempfile.TemporaryDirectory(prefix="bertbatch-scale-") as scratch:
            PARTS[name](report, Path(scratch), options.fraction)
    if options.part[-1] != "tokenizer":  # whose last line is its result
        print(f"written to {report.path}")


def rows(report: Report, scratch: Path, fraction: float) -> None:
    """Short rows in units of the usual size."""
    table = []
    for count in sizes(1_000, 10_000, 100_000, fraction=fraction):
        source = scratch / f"{count}.parquet"
        write_corpus(source, "short", count)
        done = score(source, scratch / f"out-{count}")
        scoring = done.totals["scoring_seconds"]
        table.append(
            [f"{count:,}", f"{done.totals['units']:,}", f"{done.seconds:.1f}", f"{scoring:.1f}",
             f"{count / scoring:,.0f}"]
        )  # fmt: skip
    columns = ["rows", "units", "seconds", "seconds of scoring", "rows/s"]
    report.table("Rows, a model of two tiny layers", columns, table)


def units(report: Report, scratch: Path, fraction: float) -> None:
    """One row a unit: what a unit costs, and what the driver keeps of it."""
    table = []
    for count in sizes(100, 1_000, 10_000, fraction=fraction):
        source = scratch / f"{count}.parquet"
        write_corpus(source, "short", count)
        done = score(source, scratch / f"out-{count}", "--unit-rows", "1")
        scoring = done.totals["scoring_seconds"]
        memory = [f"{mib:,.0f}" for mib in (done.first_mib, done.last_mib, done.peak_mib)]
        driver = f"{1000 * done.driver_seconds / count:.2f}"
        table.append([f"{count:,}", f"{scoring:.1f}", f"{count / scoring:,.1f}", driver, *memory])
    columns = ["units", "seconds of scoring", "units/s", "driver's CPU ms a unit"]
    more = ["driver's MiB at the first unit", "at the last", "at its peak"]
    report.table("Units of one row", [*columns, *more], table)


def planning(report: Report, scratch: Path, fraction: float) -> None:
    """Many small Parquet files: listing, cutting and storing the plan; a run's first unit."""
    table = []
    for count in sizes(1_000, 10_000, 100_000, fraction=fraction):
        source = scratch / f"{count}"
        source.mkdir()
        write_corpus(scratch / "ten.parquet", "short", 10)
        content = (scratch / "ten.parquet").read_bytes()
        for number in range(count):
            (source / f"{number:06d}.parquet").write_bytes(content)
        file, job = job_file(scratch, source, scratch / f"out-{count}")
        began = time.perf_counter()
        command = [sys.executable, "-m", "bertbatch", "plan", str(file)]
        subprocess.run(command, cwd=ROOT, env=environment(), check=True, stdout=subprocess.DEVNULL)
        printed = time.perf_counter() - began
        began = time.perf_counter()
        preflight = check_job(job)
        listed = time.perf_counter() - began
        for _ in preflight.planner(store_entries=True).extend(preflight.listing.sources):
            pass
        planned = time.perf_counter() - began - listed
        first = score(source, scratch / f"first-{count}", until_first=True).seconds
        seconds = [f"{s:.1f}" for s in (printed, listed, planned, first)]
        table.append([f"{count:,}", f"{len(preflight.plan.units):,}", *seconds])
    columns = ["sources", "units", "s of `plan`", "s to list", "s to cut and store the plan"]
    report.table("Sources of ten rows", [*columns, "s to a run's first unit"], table)


def resume(report: Report, scratch: Path, fraction: float) -> None:
    """An output with many parts: what running again costs, with nothing and with one to do."""
    table = []
    for count in sizes(1_000, 10_000, 100_000, fraction=fraction):
        source, target = scratch / f"{count}.parquet", scratch / f"out-{count}"
        write_corpus(source, "short", count)
        began = time.perf_counter()
        commit_all(job_file(scratch, source, target)[1])
        made = time.perf_counter() - began
        again = [score(source, target, "--unit-rows", "1") for _ in range(2)]
        next(target.glob("part-*.parquet")).unlink()
        missing = score(source, target, "--unit-rows", "1")
        assert [run.totals["rows_scored"] for run in (*again, missing)] == [count] * 3
        seconds = [f"{run.seconds:.1f}" for run in (again[1], missing)]
        peaks = f"{again[1].peak_mib:,.0f}"
        table.append([f"{count:,}", f"{1000 * made / count:.1f}", *seconds, peaks])
    columns = ["parts", "ms to plan and commit one", "s with nothing new", "s with one missing"]
    report.table("Running again", [*columns, "driver's MiB with nothing new"], table)


def merging(report: Report, scratch: Path, fraction: float) -> None:
    """Attention statistics of 144 heads over many units: what reading and merging them costs."""
    table = []
    for count in sizes(100, 1_000, 10_000, fraction=fraction):
        source, target = scratch / f"{count}.parquet", scratch / f"out-{count}"
        write_corpus(source, "short", count)
        _, job = job_file(scratch, source, target, model="bert-base", attention={})
        aggregates = made_up_aggregates(job)
        commit_all(job, aggregates)
        command = [sys.executable, "-m", "bertbatch", "attention", str(target)]
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--to", str(scratch / "table.parquet")],
            cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL,
        )  # fmt: skip
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, (_memory(process.pid) or (0, 0))[1])
            time.sleep(0.05)
        seconds = time.perf_counter() - began
        stored = next((target / "_bertbatch" / "attention").iterdir()).stat().st_size
        table.append([f"{count:,}", f"{stored / 2**20:.2f}", f"{seconds:.1f}", f"{peak:,.0f}"])
    columns = ["units", "MiB of each", "s of `attention`", "MiB at its peak"]
    report.table("Merging statistics of 144 heads, eleven each, nine groups", columns, table)


def made_up_aggregates(job: Job) -> pa.Table:
    """A unit's aggregates: a hundred texts of all lengths and two labels."""
    assert job.attention
    names, spec = job.attention.statistics, check_model(job.model)
    rng = np.random.default_rng(0)
    values = rng.random((100, len(names), spec.layers * spec.heads), np.float32)
    counts = rng.integers(1, 512, (100, len(names))).astype(np.int32)
    groups = [Group(ALL, "", np.ones(100, bool)), *length_groups(counts[:, 0])]
    groups += [Group(LABEL, label, rng.random(100) < 0.5) for label in ("negative", "positive")]
    statistics = Statistics(values, counts, np.arange(100))
    return aggregate(names, [1.0] * len(names), statistics, groups)


PARTS: dict[str, Callable[[Report, Path, float], None]] = {
    "rows": rows,
    "units": units,
    "stages": stages,
    "planning": planning,
    "resume": resume,
    "merging": merging,
}


def sizes(*counts: int, fraction: float) -> list[int]:
    return sorted({max(int(count * fraction), 10) for count in counts})


@dataclass
class Run:
    """A finished run of bertbatch; memory is the driver process's alone."""

    seconds: float
    totals: dict[str, Any]
    first_mib: float  # at the first unit's commit
    last_mib: float
    peak_mib: float
    driver_seconds: float  # its CPU time from the first unit's commit to the last one's


def score(source: Path, target: Path, *flags: str, until_first: bool = False) -> Run:
    """Runs `bertbatch score`, to its end or to the first unit's commit."""
    command = [
        *(sys.executable, "-m", "bertbatch", "score", str(source), str(target)),
        *("--model", str(model_folder("tiny")), "--log", "json", *flags),
    ]
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    seconds = 0.0
    totals: dict[str, Any] = {}
    memory: list[tuple[float, float]] = []
    cpu: list[float] = []
    told: list[str] = []
    for event in _events(process, told):
        if event["event"] in ("progress", "finished"):
            memory.append(_memory(process.pid) or memory[-1])
            if event["event"] == "progress":
                times = psutil.Process(process.pid).cpu_times()
                cpu.append(times.user + times.system)
        if event["event"] == "finished":
            totals = event
        if event["event"] == "progress" and until_first and not seconds:
            seconds = time.perf_counter() - began
            process.send_signal(signal.SIGTERM)
    code = process.wait()
    if code and not seconds:  # with seconds, it was told to stop
        raise SystemExit(f"bertbatch ended with {code}:\n" + "".join(told[-20:]))
    peak = max(high for _, high in memory)
    driver = cpu[-1] - cpu[0] if cpu else 0.0
    took = seconds or time.perf_counter() - began
    return Run(took, totals, memory[0][0], memory[-1][0], peak, driver)


def _events(process: subprocess.Popen[bytes], told: list[str]) -> Iterator[dict[str, Any]]:
    assert process.stderr is not None
    for line in process.stderr:
        told.append(line.decode(errors="replace"))
        del told[:-20]
        if line.startswith(b"{"):
            yield json.loads(line)


def _memory(process: int) -> tuple[float, float] | None:
    """A process's resident MiB, now and at its peak; None if it has just ended.

    Not the resource usage that its end tells: that counts its children, and the memory of the
    process that it was forked from.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines)
    if "VmRSS" not in fields:
        return None
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["VmHWM"].split()[0]) / 1024


def job_file(
    scratch: Path, source: Path, target: Path, model: str = "tiny", **more: Any
) -> tuple[Path, Job]:
    """A job of one-row units for a file, of units of the usual size for a folder of them."""
    job = {
        **more,
        "input": {"path": str(source)},
        "output": {"path": str(target)},
        "model": {"name": str(model_folder(model))},
        "runtime": {} if source.is_dir() else {"unit_rows": 1},
    }
    path = scratch / "job.yaml"
    path.write_text(json.dumps(job))  # JSON is YAML, too
    return path, Job.build(job)


def commit_all(job: Job, aggregates: pa.Table | None = None) -> None:
    """Plans the job and commits every unit as a run does, with made-up answers.

    With `aggregates` of attention statistics, each unit has these, and no columns of them.
    """
    if job.attention:
        attention = job.attention.model_copy(update={"per_row": False})
        job = job.model_copy(update={"attention": attention})
    preflight = check_job(job)
    preflight.output.write_contract(make_contract(job, preflight.specs, preflight.schema))
    with ThreadPoolExecutor(8) as pool:
        for added in preflight.planner(store_entries=True).extend(preflight.listing.sources):
            for _ in pool.map(lambda unit: _commit(preflight, unit, aggregates), added):
                pass


def _commit(preflight: Preflight, unit: Unit, aggregates: pa.Table | None) -> None:
    count = unit.rows
    (span,) = unit.spans
    columns = [
        pa.array([span.source.id] * count).dictionary_encode(),
        pa.array(np.arange(span.cut.first_row, span.cut.first_row + count)),
        *task_of(preflight.specs[""]).columns(Answers(np.zeros((count, 2), np.float32))),
        pa.array(np.full(count, 13, np.int32)),
        pa.array([False] * count),
        pa.array(np.zeros(count, np.float32)),
    ]
    predictions = pa.table(columns, schema=preflight.schema)
    bad = quarantine([], np.zeros(0, np.int64), [], predictions.select([]).slice(0, 0))
    commit.commit(preflight.output, unit, predictions, bad, {"tokens": 13 * count}, aggregates)


if __name__ == "__main__":
    main()
