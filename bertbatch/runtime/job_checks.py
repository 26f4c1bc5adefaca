"""What a job is refused for whatever its input is: parts of it that do not go together."""

import os
from collections import Counter

import pyarrow as pa

from bertbatch.engines.engine import check_installed, check_settings, settings_for
from bertbatch.errors import JobError
from bertbatch.job.carry import check_carried
from bertbatch.job.schema import Job
from bertbatch.model.spec import ModelSpec
from bertbatch.runtime.output_schema import model_fields

SINGLE_TEXTS = ("embedding", "token_classification", "zero_shot")  # tasks


def check_task(job: Job, spec: ModelSpec) -> None:
    """Raises JobError if the model's task and the rest of the job do not go together."""
    task, long_text = spec.asked.task, spec.asked.long_text
    if job.input.text_pair is not None and (task in SINGLE_TEXTS or long_text != "truncate"):
        what = f"task {task}" if task in SINGLE_TEXTS else f"long_text {long_text}"
        raise JobError(
            f"input.text_pair: model.{what} reads single texts; leave it out, or put columns "
            "together by input.template"
        )
    if job.attention is not None and spec.onnx:
        raise JobError(
            f"attention: {spec.name} has model.onnx and no model.safetensors, and OpenVINO, which "
            "runs it, gives no statistics; leave attention out, or name a folder with the weights"
        )
    if job.attention is not None and task == "zero_shot":
        raise JobError(
            "attention: zero_shot scores each text once for each label, so that a text has no "
            "statistics of its own; leave attention out, or score with another task"
        )


def check_columns(job: Job, specs: dict[str, ModelSpec]) -> None:
    """Raises JobError if two columns of the output have one name."""
    made = [field.name for field in model_fields(specs, job.attention)]
    twice = [name for name, count in Counter(map(str.casefold, made)).items() if count > 1]
    if twice:
        raise JobError(f"models: two have a column '{twice[0]}'; give one another name by `as`")
    try:
        check_carried(job.input.carry, made)
    except ValueError as error:
        raise JobError(f"input.carry: {error}") from error


def check_engines(job: Job, specs: dict[str, ModelSpec]) -> None:
    """Raises JobError for what no model worker could have: each would say so, once it runs."""
    here = job.runtime.runner == "inline" or not os.environ.get("RAY_ADDRESS")
    for model, spec in specs.items():
        settings = settings_for(spec, job.each_model[model])
        check_settings(settings, job.runtime.device)
        if here:
            check_installed(settings.engine, spec.onnx)


def check_group(job: Job, schema: pa.Schema) -> None:
    """Raises JobError if statistics cannot be grouped by the column that the job names."""
    column = job.attention.group_by if job.attention else None
    if column is None:
        return
    if column not in schema.names:
        raise JobError(f"attention.group_by: '{column}' is not carried; name it in input.carry")
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise JobError(f"attention.group_by: column '{column}' is {kind}; name one of plain values")
