"""Random rows scored again, in this process, then compared with the output."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from bertbatch.checks.verify import Verdict
from bertbatch.engines import batching
from bertbatch.errors import JobError, SourceError
from bertbatch.job.models import column_of
from bertbatch.job.schema import Job
from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokens import Answers
from bertbatch.output.folder import open_output
from bertbatch.runtime import stages
from bertbatch.runtime.context import Context
from bertbatch.runtime.executors.cpus import available_cores
from bertbatch.runtime.kinds import kind_of
from bertbatch.runtime.passthrough import Prepared
from bertbatch.runtime.preflight import Preflight, check_job
from bertbatch.runtime.probes import make_probes
from bertbatch.runtime.worker import ModelWorkers
from bertbatch.tasks.entities import different_entities
from bertbatch.tasks.task import apart, by_name, numbers, task_of
from bertbatch.units import Unit

Columns = dict[str, pa.ChunkedArray]

CLOSE = 0.02  # scores, and the lead of a label below which it may differ: docs/design.md

SHOWN = 10  # numbers of a row


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
    workers = ModelWorkers(context, "cpu", available_cores())
    workers.settle(make_probes(context), {})
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
            i = at[place]
            verdict.rescored += 1
            for model, answers in _answers(workers, prepared, i, i + 1).items():
                spec = context.specs[model]
                if what := _wrong(_columns(there, model, spec), answers, spec):
                    where = f"{unit.part}: row {place[1]} of {place[0]}"
                    verdict.problems.append(f"{where}: {model and f'{model}: '}{what}")
    if not verdict.problems:
        _compare_bits(preflight, context, chosen, verdict)


def _compare_bits(
    preflight: Preflight, context: Context, units: Sequence[Unit], verdict: Verdict
) -> None:
    """Scores a whole unit as it was scored, if it can be known how, and counts equal rows.

    Bits depend on the kind of worker and on which rows share a batch: all runs must have had the
    kind of worker that is here, and the rules for batches of now.
    """
    threads = _threads_then(preflight, verdict)
    unit = next((u for u in units if not (u.retry or preflight.job.attention)), None)
    if threads is None or unit is None:
        return
    footer, part = preflight.output.part(unit.part)
    if footer.get("rows_repeated"):
        return  # they were scored in other batches
    workers = ModelWorkers(context, "cpu", threads)
    workers.settle(make_probes(context), {})
    (prepared,) = stages.read_and_tokenize(context, [unit])
    if part.num_rows != len(prepared.passthrough.row):
        return  # some rows went to quarantine, perhaps after others were scored without them
    equal = np.ones(part.num_rows, bool)
    for model, answers in _answers(workers, prepared, 0, part.num_rows).items():
        spec = context.specs[model]
        equal &= _equal(_columns(part, model, spec), answers, spec)
    verdict.same_bits = int(equal.sum()), len(equal)


def _equal(there: Columns, answers: Answers, spec: ModelSpec) -> np.ndarray:
    """Whether the numbers of each row are equal to the bit, bool [rows]."""
    now = by_name(task_of(spec), answers)
    if answers.spans and "entities" in there:
        lists = zip(now["entities"].to_pylist(), there["entities"].to_pylist(), strict=True)
        return np.array([ours == theirs for ours, theirs in lists])
    again, then = numbers(now), numbers(there)
    each = [then[name] == again[name] for name in again if name in then]
    return np.asarray(np.hstack(each).all(axis=1)) if each else np.array(True)


def _answers(
    workers: ModelWorkers, prepared: Prepared, first: int, stop: int
) -> dict[str, Answers]:
    """Each model's answers to some rows, with what else a task may need of them."""
    found = {}
    for model, scored in workers.score(prepared.tokens, first, stop).items():
        facts = prepared.passthrough.texts[model]
        of = np.arange(*prepared.tokens[model].sequences(first, stop))
        found[model] = replace(
            scored.answers,
            spans=facts.spans and facts.spans.take(of),
            parts=facts.parts and facts.parts.take(np.arange(first, stop)),
        )
    return found


def _threads_then(preflight: Preflight, verdict: Verdict) -> int | None:
    """The threads of the workers of all runs, if those were of one kind that is here, too.

    If they were of another kind, the verdict gets to know it.
    """
    kinds = set()
    for record in preflight.output.runs():
        chosen = record.get("chosen", {})
        if chosen.get("kinds") and chosen.get("batches") != batching.VERSION:
            return None
        if record.get("worker_deaths"):
            return None  # ranges may have been split
        kinds |= set(chosen.get("kinds", {}))
    mine = {
        threads: {kind_of("cpu", threads, model) for model in preflight.specs}
        for threads in range(1, available_cores() + 1)
    }
    verdict.other_kinds = sorted(kinds.difference(*mine.values()))
    return next((threads for threads, those in mine.items() if those == kinds), None)


def _wrong(there: Columns, answers: Answers, spec: ModelSpec) -> str | None:
    """What is wrong with a row's stored answer."""
    now = by_name(task_of(spec), answers)
    if answers.spans and "entities" in there:
        return different_entities(there["entities"], now["entities"], answers, CLOSE)
    return _difference(there, now) or _label(there, answers, spec)


def _difference(there: Columns, now: dict[str, pa.Array]) -> str | None:
    """What is wrong with a row's stored scores, beside those of now."""
    stored = numbers(there)
    for name, new in numbers(now).items():
        if name == "logits" or name not in stored:
            continue  # the scores follow from them, and rounding shows less there
        old = stored[name]
        if apart(new, old, name) > CLOSE:
            return f"{name} {_few(old)} there, {_few(new)} now"
    return None


def _few(numbers: np.ndarray) -> str:
    """Numbers of one row, the first of many."""
    (row,) = numbers
    return f"{row[:SHOWN].tolist()}{'' if len(row) <= SHOWN else ' …'}"


def _label(there: Columns, answers: Answers, spec: ModelSpec) -> str | None:
    """What is wrong with a row's stored label, unless another one is as likely."""
    if "label" not in there:
        return None
    asked = replace(spec.asked, top_k=None, min_score=None, logits=False)
    task = task_of(replace(spec, asked=asked))
    (scores,) = numbers(by_name(task, answers))["scores"]
    names = asked.candidate_labels or spec.labels
    first, second = [*np.sort(scores)[::-1], -np.inf][:2]
    likeliest, least = names[int(scores.argmax())], spec.asked.min_score
    label = there["label"][0].as_py()
    if label is None:
        wrong = least is None or first - least > CLOSE
    else:
        wrong = label != likeliest and first - second > CLOSE
        wrong |= least is not None and least - first > CLOSE
    return (
        f"label {label!r} there, {likeliest!r} with a score of {first:.3f} now" if wrong else None
    )


def _columns(table: pa.Table, model: str, spec: ModelSpec) -> Columns:
    """A model's answers, by the names that they would have if it were the only one.

    Those that `output.columns` leaves out cannot be compared.
    """
    names = {column_of(model, field.name): field.name for field in task_of(spec).fields}
    return {name: table[there] for there, name in names.items() if there in table.column_names}
