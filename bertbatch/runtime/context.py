"""What the stages know of their run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from bertbatch.inputs.rows import Types
from bertbatch.job.schema import Job
from bertbatch.model.spec import ModelSpec
from bertbatch.output.folder import Output
from bertbatch.units import Source


@dataclass(frozen=True)
class Context:
    """What every stage needs to know of the run; sent to each worker once."""

    job: Job
    specs: Mapping[str, ModelSpec]  # by what their columns begin with
    output: Output
    format: str
    schema: pa.Schema  # of the output
    where: pa.Schema  # of the columns that `input.where` names
    rules: Mapping[str, int]  # of the output, see folder.py
    known: Mapping[str, Mapping[str, Any]]  # what earlier runs chose, by kind of worker
    large: bool  # whether there is so much input that calibrating pays
    expected_tokens: int = 0  # that are to be scored on each core, roughly
    first: Source | None = None  # of the input

    @property
    def types(self) -> Types:
        """The types that columns of the input keep."""
        names = list(self.job.input.carried)
        return Types(pa.schema([self.schema.field(name) for name in names]), self.where)
