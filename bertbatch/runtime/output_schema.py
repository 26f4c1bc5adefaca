"""The columns of every part."""

from collections.abc import Mapping

import pyarrow as pa

from bertbatch.attention.row_columns import attention_fields
from bertbatch.errors import JobError
from bertbatch.job.models import column_of
from bertbatch.job.schema import Attention, Job
from bertbatch.model.spec import ModelSpec
from bertbatch.tasks.task import task_of


def output_schema(job: Job, specs: Mapping[str, ModelSpec], carried: pa.Schema) -> pa.Schema:
    """Where a row is from, what it carries, what each model says, how long its text is.

    Raises JobError if the job asks for a column that there is not.
    """
    origin = [
        pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
    ]
    fields = [*carried, *model_fields(specs, job.attention)]
    wanted = job.output.columns
    if not wanted:
        return pa.schema([*origin, *fields])
    names = [field.name for field in (*origin, *fields)]
    if missing := [name for name in wanted if name not in names]:
        raise JobError(
            f"output.columns: there is no column '{missing[0]}'; there are: {', '.join(names)}"
        )
    if lost := [field.name for field in carried if field.name not in wanted]:
        raise JobError(
            f"output.columns leaves out '{lost[0]}', which input.carry names; add it there or "
            "remove it here"
        )
    return pa.schema([*origin, *(field for field in fields if field.name in wanted)])


def model_fields(specs: Mapping[str, ModelSpec], attention: Attention | None) -> list[pa.Field]:
    """The columns that are made, of all models."""
    return [
        field.with_name(column_of(model, field.name))
        for model, spec in specs.items()
        for field in (
            *task_of(spec).fields,
            pa.field("n_tokens", pa.int32(), nullable=False),
            pa.field("truncated", pa.bool_(), nullable=False),
            pa.field("unk_share", pa.float32(), nullable=False),
            *attention_fields(attention, spec),
        )
    ]
