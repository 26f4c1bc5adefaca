"""Whether two outputs' attention statistics can be compared; what a reader must know if so."""

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from bertbatch.attention.corpus import attention_contract, which_model
from bertbatch.errors import JobError
from bertbatch.output.contract import stored_heads, stored_models
from bertbatch.output.folder import Output
from bertbatch.plan.log import stored_plan
from bertbatch.wording import counted


def check_comparable(
    this: Output, other: Output, across_models: bool, model: str | None
) -> tuple[str | None, str | None]:
    """The model of each output that is meant, None of an output of one.

    Raises JobError for different models (unless `across_models`), tokenizers or settings, and for
    an output with itself.
    """
    if _place(this) == _place(other):
        raise JobError(f"{this.path} and {other.path} are the same output; name another one")
    names = [_of_several(output, model) for output in (this, other)]
    mine, theirs = (_settings(o, name) for o, name in zip((this, other), names, strict=True))
    differing = [
        f"  {key}: {mine[key]!r} there, {theirs[key]!r} in the other"
        for key in mine
        if mine[key] != theirs[key] and not (across_models and key == "model.weights")
    ]
    if differing:
        listed = "\n".join(differing)
        hint = (
            "; --across-models compares models of one shape and tokenizer nevertheless"
            if [d for d in differing if d.startswith("  model.weights")] == differing
            else ""
        )
        raise JobError(
            f"{this.path} and {other.path} cannot be compared:\n{listed}\n"
            f"statistics of differently made runs differ whatever the texts are{hint}"
        )
    return names[0], names[1]


def notes(this: Output, other: Output) -> Iterator[str]:
    """What the two have in common that a test does not expect, and how they were computed."""
    mine, theirs = (_sources(output) for output in (this, other))
    shared = sorted(mine[stamp] for stamp in mine.keys() & theirs.keys())
    if shared:
        some = shared[0] if len(shared) == 1 else f"{counted(len(shared), 'source')}"
        yield (
            f"both have rows of {some}: the test takes all rows as independent, which a row that "
            "is in both is not"
        )
    for what in ("engine", "dtype"):
        ways = [_chosen(output, what) for output in (this, other)]
        if all(ways) and ways[0] != ways[1]:
            used = " and ".join(", ".join(sorted(way)) for way in ways)
            yield f"their {what}s differ: {used}; small differences may come of that"


def _place(output: Output) -> str:
    return os.path.realpath(output.path) if output.store.is_local else output.url


def _of_several(output: Output, model: str | None) -> str | None:
    """The model that is meant of an output, if it is of several."""
    return model if "" not in stored_models(attention_contract(output)) else None


def _settings(output: Output, name: str | None) -> dict[str, Any]:
    """What must be equal for two outputs to be compared."""
    contract = attention_contract(output)
    name = which_model(output, contract, name)
    model, found = stored_models(contract)[name], stored_heads(contract, name)
    return {
        **{f"model.{key}": model[key] for key in ("weights", "tokenizer", "quantization")},
        "model.max_length": model["max_length"],
        "attention.queries": contract["attention"]["queries"],
        "layers": found["layers"],
        "heads": found["heads"],
    }


def _sources(output: Output) -> dict[str, str]:
    """The ids of an output's sources by their fingerprints; none if its plan cannot be read."""
    with suppress(JobError, OSError):  # the statistics themselves need no plan
        plan = stored_plan(output, output.existing_contract())
        return {source.fingerprint: source.id for source in plan.sources.values()}
    return {}


def _chosen(output: Output, what: str) -> set[str]:
    """The engines or dtypes of an output's runs."""
    return {
        kind[what]
        for run in output.runs()
        for kind in run.get("chosen", {}).get("kinds", {}).values()
    }
