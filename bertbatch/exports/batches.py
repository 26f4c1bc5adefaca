"""The batches of an export: which parts go together into the target, decided once.

A batch is a numbered file of the output, created only if absent: the parts that no earlier batch
has. Two exporters of one target so agree on what is next, and one that was killed is continued.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bertbatch.errors import JobError
from bertbatch.exports.rows import ExportedRows
from bertbatch.output.folder import Output
from bertbatch.output.part import unit_of_part
from bertbatch.output.records import fits, reading, text, to_json
from bertbatch.plan.log import PlanLog
from bertbatch.storage.retry import create_once

_SHAPE = {"parts": [text]}
MOST_ROWS = 1_000_000  # planned for one batch, which some tables take as a whole in memory


@dataclass(frozen=True)
class Batches:
    """The batches of one output for one target, which has an id."""

    output: Output
    target: str

    def all(self) -> list[list[str]]:
        """The parts of each batch. Raises JobError if a record is damaged."""
        names = self.output.store.names(self._folder)
        return [self._read(f"{self._folder}/{name}") for name in names]

    def next(self, known: list[list[str]], parts: list[str], plan: PlanLog) -> list[str] | None:
        """Creates the batch after the known ones, or reads it; None if no part is new."""
        old = {part for batch in known for part in batch}
        rows = {unit.part: unit.rows for unit in plan.units.values()}
        new: list[str] = []
        size = 0
        for part in parts:
            if part not in old and (not new or size + rows[part] <= MOST_ROWS):
                new.append(part)
                size += rows[part]
        path = f"{self._folder}/{len(known) + 1:08d}.json"
        if not new:
            return None
        data = to_json({"parts": new})
        created = create_once(lambda: self.output.store.create(path, data))
        return new if created else self._read(path)

    @property
    def _folder(self) -> str:
        return self.output.at("_bertbatch", "exports", self.target)

    def _read(self, path: str) -> list[str]:
        with reading(path):
            record = json.loads(self.output.store.read(path))
            if not fits(record, _SHAPE):
                raise ValueError("it does not name the parts of a batch")
        return list(record["parts"])


def check_not_withdrawn(rows: ExportedRows, batches: list[list[str]]) -> None:
    """Raises JobError if the output has withdrawn rows that the target has."""
    withdrawn = rows.plan.withdrawn
    gone = {part for batch in batches for part in batch if unit_of_part(part) in withdrawn}
    if gone:
        raise JobError(
            f"{rows.output.path} has withdrawn {min(gone)}, whose rows the target has: its source "
            "has changed or is gone; export to a new target"
        )


def output_id(output: Output) -> str:
    """The id of an output, given to it by its first export."""
    path = output.at("_bertbatch", "exports", "id.json")
    data = to_json({"id": uuid.uuid4().hex})
    create_once(lambda: output.store.create(path, data))
    with reading(path):
        record: Mapping[str, Any] = json.loads(output.store.read(path))
        if not fits(record, {"id": text}):
            raise ValueError("it has no id")
    return str(record["id"])
