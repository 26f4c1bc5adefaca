"""The job file's list `models`: several models for each text."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from bertbatch.job.model import Model


class NamedModel(Model):
    as_: str | None = Field(
        None,
        alias="as",
        pattern=r"^[^/\\\x00-\x1f\x7f-\x9f]+$",
        description="what the names of the model's columns begin with; default: the last part of "
        "its name",
    )

    @property
    def column(self) -> str:
        """What the names of the model's columns begin with."""
        return self.as_ or self.name.rstrip("/").rpartition("/")[2]


def column_of(model: str, name: str) -> str:
    """A column of a model, by what all of its columns begin with; "" is the only model."""
    return f"{model}_{name}" if model else name


def with_common_keys(data: dict[str, Any]) -> dict[str, Any]:
    """A job where each of `models` has the keys of `model` that it does not set.

    Raises ValueError if these name a model, too.
    """
    common, models = data.get("model"), data.get("models")
    if not common or not models or not isinstance(common, dict) or not isinstance(models, list):
        return data
    if "name" in common:
        raise ValueError("`models` and `model.name` both say what scores the text; keep one")
    each = [{**common, **model} if isinstance(model, dict) else model for model in models]
    return {**data, "model": {}, "models": each}


def check_names(models: Sequence[NamedModel]) -> None:
    """Raises ValueError if two models have one name, or one has none."""
    seen: set[str] = set()
    for model in models:
        if "name" not in model.model_fields_set:
            raise ValueError("models: each needs a name")
        if not model.column:
            raise ValueError(f"models: '{model.name}' has no last part; name it by `as`")
        folded = model.column.casefold()  # DuckDB and Spark do not tell A_label from a_label
        if folded in seen:
            raise ValueError(
                f"models: two are called '{model.column}'; give one a name of its own by `as`"
            )
        seen.add(folded)
