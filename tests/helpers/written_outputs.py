"""Outputs whose answers are given, in the output's own format: nothing is scored."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bertbatch.output.commit import commit
from bertbatch.output.contract import _encoded
from bertbatch.output.folder import open_output
from bertbatch.plan.log import Entry, stored_plan
from bertbatch.tasks.single_label import LABEL, lists
from bertbatch.units import Cut, Source, Span

SOURCE = pa.dictionary(pa.int32(), pa.string())


def single_labels(labels: list[str], scores: np.ndarray, **carried: Any) -> pa.Table:
    """Answers of a single-label model with scores float [rows, labels], beside carried columns."""
    scores = scores.astype(np.float32)
    best = scores.argmax(1)
    return pa.table(
        {
            **carried,
            "label": pa.array(np.array(labels, object)[best], pa.string()).cast(LABEL),
            "score": scores.max(1),
            "scores": lists(scores),
            **lengths(len(scores)),
        }
    )


def label_sets(labels: list[str], scores: np.ndarray, **carried: Any) -> pa.Table:
    """Answers of a multi-label model, every label over ½."""
    sets = [[labels[i] for i in np.flatnonzero(row > 0.5)] for row in scores]
    given = {"labels": pa.array(sets, pa.list_(pa.string())).cast(pa.list_(LABEL))}
    given["scores"] = lists(scores)
    return pa.table({**carried, **given, **lengths(len(scores))})


def numbers(values: np.ndarray, **carried: Any) -> pa.Table:
    """Answers of a regression."""
    return pa.table({**carried, "value": values.astype(np.float32), **lengths(len(values))})


def lengths(rows: int) -> dict[str, Any]:
    return {
        "n_tokens": np.arange(rows, dtype=np.int32) % 60 + 3,
        "truncated": np.arange(rows) % 10 == 0,
        "unk_share": np.zeros(rows, np.float32),
    }


def write_output(
    path: Path,
    answers: pa.Table,
    labels: list[str],
    problem_type: str = "single_label_classification",
    unit_rows: int = 100,
    sources: tuple[int, ...] = (),
    bad: dict[int, str] | None = None,
    skip: tuple[int, ...] = (),
    **more: Any,
) -> Path:
    """Writes an output whose rows are those of `answers`, and `bad` ones in quarantine.

    `sources` are the rows of each source, in order, all in one by default; `skip` are units
    that are planned and not committed, by their number. `more` is in the contract.
    """
    output = open_output(str(path))
    fields = [
        pa.field("source", SOURCE, nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        *answers.schema,
    ]
    schema = pa.schema(fields)
    contract = {
        "format_version": 1,
        "model": {
            "name": "given",
            "weights": "0" * 64,
            "tokenizer": "1" * 64,
            "quantization": None,
            "max_length": 64,
            "problem_type": problem_type,
            "labels": labels,
            **more.pop("model", {}),
        },
        "attention": None,
        "schema": _encoded(schema),
        **more,
    }
    output.write_contract(contract)
    rows = answers.num_rows
    bad = bad or {}
    entry = _entry(sources or (rows,), unit_rows)
    plan = stored_plan(output, contract)
    plan.append(entry)
    counts = sources or (rows,)
    starts = dict(zip(plan.sources, np.cumsum([0, *counts]).tolist(), strict=False))
    for number, unit in enumerate(plan.units.values()):
        tables, held = [], []
        for span in unit.spans:
            count, first = span.cut.rows, span.cut.first_row
            at = starts[span.source.id] + first
            place = np.arange(at, at + count)
            fine = np.array([i not in bad for i in place.tolist()])
            origin = pa.table(
                {
                    "source": pa.array([span.source.id] * count, pa.string()).cast(SOURCE),
                    "row": np.arange(first, first + count),
                }
            )
            columns = [*origin.columns, *answers.slice(at, count).columns]
            table = pa.table(columns, names=schema.names)
            tables.append(table.filter(pa.array(fine)).cast(schema))
            held += [
                {"source": span.source.id, "row": first + i, "reason": bad[at + i]}
                for i in np.flatnonzero(~fine).tolist()
            ]
        if number in skip:
            continue
        quarantine = pa.Table.from_pylist(
            held,
            pa.schema([("source", pa.string()), ("row", pa.int64()), ("reason", pa.string())]),
        )
        commit(output, unit, pa.concat_tables(tables), quarantine, {"tokens": 1})
    if not skip:
        output.write_success({"plan": "given"})
    return path


def _entry(rows: tuple[int, ...], unit_rows: int) -> Entry:
    """A plan whose units have so many rows; small sources share one."""
    sources = [Source(f"in{i:03d}.parquet", "", 1, "1") for i in range(len(rows))]
    units: list[tuple[Span, ...]] = []
    pending: list[Span] = []
    for source, count in zip(sources, rows, strict=True):
        if count < unit_rows / 2:
            pending.append(Span(source, Cut(0, count, 0, 1, count)))
            if sum(span.cut.rows for span in pending) >= unit_rows:
                units.append(tuple(pending))
                pending = []
            continue
        for first in range(0, count, unit_rows):
            size = min(unit_rows, count - first)
            units.append((Span(source, Cut(first, size, 0, 1, size)),))
    if pending:
        units.append(tuple(pending))
    return Entry(sources, units)
