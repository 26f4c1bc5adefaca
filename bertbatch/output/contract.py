"""The contract of an output: what all of its parts have in common.

It is fixed when the output is begun, and a job that differs from it is refused. `folder.py` reads
and writes its file.
"""

import base64
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import yaml

from bertbatch.errors import JobError
from bertbatch.job.carry import ALL
from bertbatch.job.safe_yaml import read_yaml
from bertbatch.job.schema import Job
from bertbatch.model.spec import ModelSpec
from bertbatch.output.records import count, fits, number, small, text
from bertbatch.statistics.statistic import make_statistics
from bertbatch.units import digest

FORMAT_VERSION = 1
# How values are made, where that has changed since the first outputs; an output keeps the rules
# that it was begun with. hive: 1, the values of folders such as k=a%2Fb are decoded. answers: 1,
# rows share batches only where that leaves their answers alone, and padding and token types are
# the tokenizer's.
RULES = {"hive": 1, "answers": 1}
_MODEL = {
    "weights": text,
    "tokenizer": text,
    "quantization": (None, text),
    "max_length": count,
}
_HEADS = {"layers": small, "heads": small, "statistics": {"*": number}}
# What the program relies on, of outputs of one model and of several.
CONTRACT_SHAPE = (
    {
        "format_version": count,
        "model": _MODEL,
        "schema": text,
        "attention?": (None, {**_HEADS, "queries": text}),
    },
    {
        "format_version": count,
        "models": {"*": _MODEL},
        "schema": text,
        "attention?": (None, {"models": {"*": _HEADS}, "queries": text}),
    },
)


def make_contract(
    job: Job,
    specs: Mapping[str, ModelSpec],
    schema: pa.Schema,
    where: pa.Schema,
    rules: Mapping[str, int] = RULES,
) -> dict[str, Any]:
    """The contract of an output that a job begins; `where` has the types of `input.where`."""
    return {
        "format_version": FORMAT_VERSION,
        **_of_models({m: {"name": spec.name, **spec.answers} for m, spec in specs.items()}),
        "input": {
            **{key: getattr(job.input, key) for key in ("text", "text_pair")},
            **job.input.prepares,
            **_where(job, where),
            **({"text_rows": "file"} if job.input.text_rows == "file" else {}),
            "carry": job.input.carried,
            **({"carry_all": True} if ALL in job.input.carry else {}),
            "limit": job.input.limit,
            "csv": {**job.input.csv.model_dump(), "delimiter": job.input.csv.delimiter or ","},
        },
        **({"output": {"columns": job.output.columns}} if job.output.columns else {}),
        "attention": _attention(job, specs),
        "rules": dict(rules),
        "columns": {field.name: str(field.type) for field in schema},
        "schema": _encoded(schema),
    }


def _where(job: Job, types: pa.Schema) -> dict[str, Any]:
    if job.input.where is None:
        return {}
    return {"where": job.input.where, "where_schema": _encoded(types)}


def _encoded(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def _of_models(each: dict[str, Any]) -> dict[str, Any]:
    """What is said of each model, as it is stored."""
    return {"models": each} if "" not in each else {"model": each[""]}


def _attention(job: Job, specs: Mapping[str, ModelSpec]) -> dict[str, Any] | None:
    """What an output's statistics have in common; `statistics` end at these largest values."""
    if job.attention is None:
        return None
    statistics = make_statistics(job.attention.statistics)
    each = {
        model: {
            "statistics": {s.name: s.most(spec.max_length) for s in statistics},
            "layers": spec.layers,
            "heads": spec.heads,
        }
        for model, spec in specs.items()
    }
    return {**job.attention.model_dump(), **each.get("", {"models": each})}


def stored_models(contract: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a contract says of each model, by what its columns begin with."""
    return dict(contract["models"]) if "models" in contract else {"": contract["model"]}


def stored_heads(contract: dict[str, Any], model: str) -> dict[str, Any]:
    """The layers, heads and statistics of a model, whose output has statistics."""
    attention = contract["attention"]
    found: dict[str, Any] = attention["models"][model] if model else attention
    return found


def encode_contract(contract: dict[str, Any]) -> bytes:
    return yaml.safe_dump(contract, sort_keys=False, allow_unicode=True).encode()


def decode_contract(data: bytes, path: str) -> dict[str, Any]:
    """Raises ValueError and others if the data is no contract; JobError if of a later format.

    `path` is the output's, for messages.
    """
    contract = read_yaml(data.decode())
    if fits(contract, {"format_version": count}) and contract["format_version"] > FORMAT_VERSION:
        raise JobError(
            f"{path} was started by a newer version of bertbatch (format "
            f"{contract['format_version']}, this one knows {FORMAT_VERSION}); use that version"
        )
    if not fits(contract, CONTRACT_SHAPE):
        raise ValueError("it is not an output's contract")
    stored_schema(contract)
    stored_where(contract)
    return dict(contract)


def stored_schema(contract: dict[str, Any]) -> pa.Schema:
    """The schema of every part."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(contract["schema"])))


def stored_where(contract: dict[str, Any]) -> pa.Schema:
    """The types of the columns that `input.where` names."""
    encoded = contract.get("input", {}).get("where_schema")
    if encoded is None:
        return pa.schema([])
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(encoded)))


def stored_fingerprint(contract: dict[str, Any]) -> str:
    """The scoring fingerprint of the parts of an output with this contract."""
    each = {
        model: {key: value for key, value in said.items() if key != "name"}
        for model, said in stored_models(contract).items()
    }
    return digest([contract["format_version"], each.get("", each)])


def scoring_fingerprint(specs: Mapping[str, ModelSpec]) -> str:
    """A hash over everything about the models that changes answers."""
    each = {model: spec.answers for model, spec in specs.items()}
    return digest([FORMAT_VERSION, each.get("", each)])


def rules_of(contract: dict[str, Any] | None, path: str) -> dict[str, int]:
    """The rules of an output, or of a new one. Raises JobError if one is of a later version."""
    if contract is None:
        return dict(RULES)
    rules = contract.get("rules", {})
    newer = [name for name, version in rules.items() if version > RULES.get(name, 0)]
    if newer:
        raise JobError(
            f"output.path {path} was started by a newer version of bertbatch "
            f"(rules: {', '.join(newer)}); use that version"
        )
    return dict(rules)


def compare(existing: dict[str, Any], wanted: dict[str, Any], path: str) -> None:
    """Raises JobError naming what differs between an output's contract and the job."""
    old, new = _flat(existing), _flat(wanted)
    # The columns tell the schema; a model may be renamed.
    ignored = {
        "schema",
        "input.where_schema",
        "model.name",
        *(f"models.{m}.name" for m in stored_models(wanted)),
    }
    differences = [
        f"  {key}: {_named(old, key)} in the output, {_named(new, key)} in the job"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in ignored
    ]
    if differences:
        listed = "\n".join(differences)
        raise JobError(
            f"output.path {path} belongs to another job:\n{listed}\n"
            "An output never mixes answers: score into a new folder, such as one with the date"
        )


def _named(facts: dict[str, Any], key: str) -> str:
    return repr(facts[key]) if facts.get(key) is not None else "not set"


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = inner
    return flat
