"""Which columns of an output hold a model's answers; reading what is committed of them."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from bertbatch.attention.corpus import which_model
from bertbatch.errors import JobError
from bertbatch.job.models import column_of
from bertbatch.output.contract import stored_models, stored_schema
from bertbatch.output.folder import Output
from bertbatch.plan.log import PlanLog, stored_plan
from bertbatch.plan.standing import Standing, standing
from bertbatch.units import Unit

READING = 4  # parts in memory at the same time
_KINDS = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    **{kind: kind for kind in ("regression", "embedding", "token_classification")},
}


@dataclass(frozen=True)
class Answers:
    """An output, one of its models, and what its columns hold.

    `kind`: "single_label", "multi_label", "regression", "embedding" or "token_classification".
    `labels`: the model's classes in their order.
    """

    output: Output
    contract: dict[str, Any]
    model: str
    kind: str
    labels: tuple[str, ...]
    schema: pa.Schema

    def name(self, column: str) -> str:
        """The name that one of the model's columns has in the output."""
        return column_of(self.model, column)

    def has(self, column: str) -> bool:
        return self.name(column) in self.schema.names

    @property
    def number(self) -> str:
        """The column with the number that a regression or a cross-encoder gives."""
        said = stored_models(self.contract)[self.model]
        return self.name("score" if said.get("task") == "cross_encoder" else "value")

    def check_there(self, *columns: str) -> None:
        """Raises JobError if the output lacks one of these columns."""
        for column in columns:
            if column not in self.schema.names:
                raise JobError(
                    f"{self.output.path} has no column '{column}'; it has "
                    f"{', '.join(self.schema.names)}"
                )


def read_answers(output: Output, model: str | None = None) -> Answers:
    """What an output's columns hold. Raises JobError if there is no output, or no such model.

    `model`: whose, by what its columns begin with, if there are several.
    """
    contract = output.existing_contract()
    model = which_model(output, contract, model)
    said = stored_models(contract)[model]
    kind = _KINDS.get(said.get("problem_type", ""), "single_label")
    labels = said.get("labels", ())
    if said.get("task") == "zero_shot":
        kind = "multi_label" if said.get("multi_label") else "single_label"
        labels = said.get("candidate_labels", ())
    return Answers(output, contract, model, kind, tuple(map(str, labels)), stored_schema(contract))


@dataclass(frozen=True)
class Committed:
    """The units of an output that were committed when it was looked at."""

    plan: PlanLog
    units: list[Unit]
    standing: Standing

    @property
    def parts(self) -> list[str]:
        return [unit.part for unit in self.units]


def committed(answers: Answers) -> Committed:
    """Raises JobError if the plan cannot be read."""
    plan = stored_plan(answers.output, answers.contract)
    there = answers.output.committed()
    units = sorted(
        (unit for unit in plan.units.values() if unit.id in there),
        key=lambda unit: (unit.spans[0].source.id, unit.spans[0].cut.first_row, unit.id),
    )
    return Committed(plan, units, standing(answers.output, plan, there))


def read_columns(
    output: Output,
    parts: Sequence[str],
    columns: Sequence[str],
    damaged: dict[str, str] | None = None,
) -> Iterator[pa.Table]:
    """Some columns of each part, as `read_parts` reads them."""
    for _, _, table in read_parts(output, parts, columns, damaged):
        yield table


def read_parts(
    output: Output,
    parts: Sequence[str],
    columns: Sequence[str],
    damaged: dict[str, str] | None = None,
) -> Iterator[tuple[str, dict[str, Any], pa.Table]]:
    """Each part's name, footer, and some of its columns, in order; a few are in memory at a time.

    A part that cannot be read is noted in `damaged` with the reason. Raises JobError without it.
    """
    names = list(dict.fromkeys(columns))
    waiting: deque[tuple[str, Future[tuple[dict[str, Any], pa.Table]]]] = deque()
    left = iter(parts)
    with ThreadPoolExecutor(READING) as pool:
        while True:
            while len(waiting) < READING and (part := next(left, None)) is not None:
                waiting.append((part, pool.submit(_read_part, output, part, names)))
            if not waiting:
                return
            part, reading = waiting.popleft()
            try:
                footer, table = reading.result()
            except JobError as error:
                if damaged is None:
                    raise
                damaged[part] = str(error)
            else:
                yield part, footer, table


def _read_part(
    output: Output, part: str, columns: Sequence[str]
) -> tuple[dict[str, Any], pa.Table]:
    try:
        footer, table = output.part(part, columns)
        return footer, table.select(list(columns))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise JobError(
            f"{output.at(part)} cannot be read: {error}; bertbatch verify says what is damaged"
        ) from error
