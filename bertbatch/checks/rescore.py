"""Random rows scored again, in this process, then compared with the output."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from bertbatch.checks.verify import Verdict
from bertbatch.errors import JobError, SourceError
from bertbatch.job.schema import Job
from bertbatch.output.folder import open_output
from bertbatch.runtime import stages
from bertbatch.runtime.executors.cpus import available_cores
from bertbatch.runtime.preflight import check_job
from bertbatch.runtime.worker import ModelWorker
from bertbatch.tasks.task import task_of
from bertbatch.units import Unit

CLOSE = 0.02  # scores, and the lead of a label below which it may differ: docs/design.md


def rescore(job: Job, output: str, count: int, verdict: Verdict) -> None:
    """Scores rows again and adds what differs to the verdict.

    Raises JobError if the job is not this output's, or its input is gone.
    """
    if open_output(output).path != open_output(job.output.path).path:
        raise JobError(f"--job writes to {job.output.path}, not to {output}")
    preflight = check_job(job)
    done = [u for u in preflight.plan.units.values() if u.id in preflight.committed]
    chosen = random.sample(done, min(len(done), max(count // 10, 1)))
    context = preflight.context()  # without statistics, which answers do not depend on
    plain = context.job.model_copy(update={"attention": None})
    context = replace(context, job=plain, large=False)
    worker = ModelWorker.of(context, "cpu", available_cores())
    worker.settle(stages.make_probe(context))
    task = task_of(context.spec)
    names = [field.name for field in task.fields]
    each = -(-count // max(len(chosen), 1))
    for unit in chosen:
        _, part = preflight.output.part(unit.part)
        rows = random.sample(range(part.num_rows), min(each, part.num_rows))
        try:
            (prepared,) = stages.read_and_tokenize(context, [unit])
        except SourceError as error:
            verdict.problems.append(f"{unit.part}: cannot be scored again: {error}")
            continue
        at = {
            (unit.spans[source].source.id, int(row)): i
            for i, (source, row) in enumerate(
                zip(prepared.passthrough.source, prepared.passthrough.row, strict=True)
            )
        }
        for index in rows[: count - verdict.rescored]:
            there = part.slice(index, 1)
            place = (there["source"][0].as_py(), there["row"][0].as_py())
            logits = worker.score(prepared.tokens, at[place], at[place] + 1).logits
            now = dict(zip(names, task.columns(logits), strict=True))
            verdict.rescored += 1
            if what := _difference(there, now, unit, place):
                verdict.problems.append(what)


def _difference(
    there: pa.Table, now: dict[str, pa.Array], unit: Unit, place: Sequence[object]
) -> str | None:
    """What is wrong with a row's stored answers, beside those of now."""
    where = f"{unit.part}: row {place[1]} of {place[0]}"
    for name in ("scores", "value"):
        if name not in now:
            continue
        old = np.asarray(there[name][0].as_py(), np.float64)
        new = np.asarray(now[name][0].as_py(), np.float64)
        scale = max(1.0, float(np.abs(old).max()))  # a regression's value has any size
        if np.abs(old - new).max() > CLOSE * scale:
            return f"{where}: {name} {old.tolist()} there, {new.tolist()} now"
        if name == "scores" and "label" in now:
            first, second = np.sort(old)[::-1][:2]
            if there["label"][0].as_py() != now["label"][0].as_py() and first - second > CLOSE:
                return f"{where}: {there['label'][0]} there, {now['label'][0]} now"
    return None
