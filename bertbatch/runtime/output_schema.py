"""The columns of every part."""

from collections.abc import Mapping

import pyarrow as pa

from bertbatch.attention.row_columns import attention_fields
from bertbatch.job.models import column_of
from bertbatch.job.schema import Attention
from bertbatch.model.spec import ModelSpec
from bertbatch.tasks.task import task_of


def output_schema(
    specs: Mapping[str, ModelSpec], carried: pa.Schema, attention: Attention | None
) -> pa.Schema:
    """Where a row is from, what it carries, what each model says, how long its text is."""
    return pa.schema(
        [
            pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            pa.field("row", pa.int64(), nullable=False),
            *carried,
            *model_fields(specs, attention),
        ]
    )


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
