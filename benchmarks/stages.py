"""What a unit of the usual size costs in each stage, on one core, from and to an object store."""

import os
import pickle
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from s3fs import S3FileSystem

from benchmarks.corpora import write_corpus
from benchmarks.report import Report
from bertbatch import Job
from bertbatch.output.contract import make_contract
from bertbatch.plan.unit_size import cut_size
from bertbatch.runtime.preflight import check_job
from bertbatch.runtime.probes import make_probes
from bertbatch.runtime.stages import commit, read_and_tokenize
from bertbatch.runtime.worker import ModelWorkers
from tests.helpers.seaweed import BUCKET, seaweed

COLUMNS = (
    *("tokens", "s to read and tokenize", "s to score", "s to commit"),
    *("MB of text and carried columns", "MB of tokens", "MB past the model", "MB of scores"),
    "MB of its part",
)


def stages(report: Report, scratch: Path, fraction: float) -> None:
    """Times, sizes and requests to the store of some units, one after the other."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    requests: Counter[str] = Counter()
    call = S3FileSystem._call_s3

    async def counted(self: Any, method: str, *args: Any, **more: Any) -> Any:
        requests[method] += 1
        return await call(self, method, *args, **more)

    found: dict[str, list[float]] = {name: [] for name in COLUMNS}
    asked: dict[str, Counter[str]] = {name: Counter() for name in ("read and tokenize", "commit")}
    with seaweed(scratch) as options, patch.object(S3FileSystem, "_call_s3", counted):
        local = scratch / "mixed.parquet"
        write_corpus(local, "mixed", 20_000)
        S3FileSystem(**options).put(str(local), f"{BUCKET}/in/mixed.parquet")
        source, target = (
            {"path": f"s3://{BUCKET}/{name}", "storage_options": options} for name in ("in", "out")
        )
        job = Job.build({"input": source, "output": target, "model": {"dtype": "float32"}})
        preflight = check_job(job)
        preflight.output.write_contract(make_contract(job, preflight.specs, preflight.schema))
        planner = preflight.planner(store_entries=True)
        planner.size = cut_size(job.runtime, 1 << 30)  # as of a large input
        units = [unit for added in planner.extend(preflight.listing.sources) for unit in added]
        context = preflight.context()
        worker = ModelWorkers(context, "cpu", 1)
        worker.settle(make_probes(context), {})
        for number, unit in enumerate(units[: max(int(4 * fraction), 2)]):
            requests.clear()
            times = [time.perf_counter()]
            (prepared,) = read_and_tokenize(context, [unit])
            times.append(time.perf_counter())
            reading = Counter(requests)
            scored = worker.score(prepared.tokens, 0, prepared.rows)
            times.append(time.perf_counter())
            requests.clear()
            commit(context, unit, prepared.passthrough, [], [scored])
            times.append(time.perf_counter())
            if not number:  # connections are made, caches filled
                continue
            asked["read and tokenize"].update(reading)
            asked["commit"].update(requests)
            part = preflight.output.store.info(preflight.output.at(unit.part)).size
            moved = [_bytes(value) for value in (prepared.tokens, prepared.passthrough, scored)]
            megabytes = [size / 1e6 for size in (unit.bytes, *moved, part)]
            values = (len(prepared.tokens[""].ids), *np.diff(times), *megabytes)
            for name, value in zip(found, values, strict=True):
                found[name].append(float(value))
    count = len(found["tokens"])
    table = [[name, f"{median(v):,.3g}"] for name, v in found.items()]
    for stage, methods in asked.items():
        each = ", ".join(f"{n / count:.3g} {method}" for method, n in methods.items())
        table.append([f"requests to {stage}", each])
    report.table(f"A unit of the usual size, medians of {count}, MiniLM", ["what", "a unit"], table)


def _bytes(value: Any) -> int:
    """What a value weighs on its way from one process to another."""
    return len(pickle.dumps(value, 5))
