"""The job file: one pydantic model, validated before anything starts.

A job is a complete configuration; the command line's flags and `--set` build the same
model. What each key means is said once, in its description, and error messages quote it.
"""

import copy
import datetime as dt
import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from bertbatch.errors import JobError
from bertbatch.job.carry import ALL
from bertbatch.job.input import Input
from bertbatch.job.messages import Location, problems
from bertbatch.job.model import Model
from bertbatch.job.models import NamedModel, check_names, with_common_keys
from bertbatch.job.overrides import override
from bertbatch.job.placeholders import fill
from bertbatch.job.safe_yaml import line_of, read_yaml
from bertbatch.job.types import CommaList, CountOrAuto, MibOrAuto, Section, StorageOptions
from bertbatch.registry import DEFAULT_STATISTICS, STATISTICS


class Output(Section):
    path: str = Field(description="the folder or URL where the parts go")
    columns: CommaList = Field(
        [],
        description="the columns to write, beside source and row, which are always written; all "
        "unless said",
    )
    storage_options: StorageOptions = Field({})


class Attention(Section):
    statistics: CommaList = Field(
        DEFAULT_STATISTICS, description=f"what is computed of every head: {', '.join(STATISTICS)}"
    )
    queries: Literal["all", "content"] = Field(
        "all",
        description="whose attention counts: all tokens, or content (special tokens excluded)",
    )
    sample: float = Field(
        1.0,
        gt=0,
        le=1,
        description="the share of the rows to compute statistics for; all rows are scored",
    )
    per_row: bool = Field(
        True, description="whether each row gets statistics of its own, besides those of the corpus"
    )
    group_by: str | None = Field(
        None, description="a carried column (its output name) to group the corpus statistics by"
    )

    @field_validator("statistics")
    @classmethod
    def known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in STATISTICS:
                near = difflib.get_close_matches(name, STATISTICS, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise ValueError(f"there is no statistic '{name}'{hint}")
        if not value or len(set(value)) < len(value):
            raise ValueError("must name at least one statistic, and none twice")
        return [name for name in STATISTICS if name in value]  # columns have one order


class Limits(Section):
    max_hours: float | None = Field(
        None,
        gt=0,
        description="how long a run may take; it stops in time, and the next one continues",
    )
    max_quarantined: float = Field(
        0.05,
        ge=0,
        le=1,
        description="the share of the output's rows in quarantine above which a run stops, from "
        "100 rows on",
    )


class Alarms(Section):
    label_share: float | None = Field(
        None, gt=0, le=1, description="how far a label's share may move from the run before"
    )
    quarantined: float | None = Field(
        None, ge=0, le=1, description="the share of the date's rows that may be in quarantine"
    )
    empty_input: bool = Field(
        False,
        description="whether an input without rows is an alarm, or one whose rows `where` all "
        "leaves out",
    )
    nothing_new: bool = Field(
        False, description="whether a date without new rows that `where` selects is an alarm"
    )
    against: str | None = Field(
        None, description="the output whose last run is compared with; may contain {date-1}"
    )


class Runtime(Section):
    runner: Literal["auto", "ray", "inline"] = Field(
        "auto",
        description="ray: all cores and GPUs of a machine or cluster; inline: this process; "
        "auto: a child process where that is faster, else ray",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the model runs")
    workers: CountOrAuto = Field(
        "auto", description="model workers; auto: one for each GPU, else one for each core"
    )
    gpus_per_worker: Annotated[float, Field(gt=0, le=1)] = Field(
        1, description="the share of a GPU that a model worker takes"
    )
    unit_rows: int | None = Field(
        None, ge=1, description="maximum rows in a unit; applies to sources not yet planned"
    )
    unit_mib: MibOrAuto = Field(
        "auto",
        description="MiB of text in a unit, for sources not yet planned; auto: 1, less in small "
        "inputs, more for many fast devices",
    )
    retry_quarantined: bool = Field(
        False, description="whether rows in quarantine are scored again, once their cause is fixed"
    )
    on_busy: Literal["fail", "wait", "share"] = Field(
        "fail", description="what to do while another run is working on the output"
    )


class Job(Section):
    """A complete job. Raises JobError, never a validation traceback, from its builders."""

    input: Input = Field(description="what is read")
    output: Output = Field(description="where predictions go")
    model: Model = Field(
        Model(), description="what scores the text; beside `models`, what these have in common"
    )
    models: list[NamedModel] = Field(
        [],
        description="several models for each text: each has the keys of `model`, and `as`, which "
        "the names of its columns begin with; default: the last part of its name",
    )
    attention: Attention | None = Field(
        None, description="statistics of every attention head; `attention: {}` for the usual ones"
    )
    limits: Limits = Field(Limits(), description="when to stop early")
    alarms: Alarms = Field(Alarms(), description="what makes a run that succeeds exit with 4")
    runtime: Runtime = Field(Runtime(), description="how and where it runs; never changes answers")
    date: dt.date = Field(
        default_factory=dt.date.today, description="the day that {date} in paths means; today"
    )
    run: str = Field(
        default_factory=lambda: f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}",
        coerce_numbers_to_str=True,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="the name that {run} in paths means; the time, to the second",
    )

    @property
    def each_model(self) -> dict[str, Model]:
        """The models by what their columns begin with: "" for that of `model`."""
        return {model.column: model for model in self.models} or {"": self.model}

    @model_validator(mode="before")
    @classmethod
    def keys_in_common(cls, data: Any) -> Any:
        return with_common_keys(data) if isinstance(data, dict) else data

    @property
    def public(self) -> dict[str, Any]:
        """What the job says, without storage options, which may hold secrets."""
        data: dict[str, Any] = self.model_dump(mode="json", exclude_unset=True, by_alias=True)
        sections = [data.get("input"), data.get("output"), data.get("model")]
        for section in (*sections, *data.get("models", [])):
            (section or {}).pop("storage_options", None)
        return data

    @model_validator(mode="after")
    def names_differ(self) -> "Job":
        check_names(self.models)
        return self

    @field_validator("date", mode="before")
    @classmethod
    def a_day(cls, value: Any) -> Any:
        # pydantic would take 20261124 for seconds since 1970.
        try:
            return dt.date.fromisoformat(str(value))
        except ValueError:
            raise ValueError("must be a day, such as 2026-11-24") from None

    @model_validator(mode="after")
    def groups_exist(self) -> "Job":
        column = self.attention.group_by if self.attention else None
        if column is not None and not {column, ALL} & {*self.input.carried, *self.input.carry}:
            names = [name for name, of in self.input.carried.items() if of == column]
            raise ValueError(
                f"attention.group_by: '{column}' is carried as '{names[0]}'; name it so"
                if names
                else f"attention.group_by: '{column}' is not carried; add it to input.carry"
            )
        return self

    @model_validator(mode="after")
    def repeats_have_no_statistics(self) -> "Job":
        if self.attention and self.input.dedupe:
            raise ValueError(
                "input.dedupe: attention statistics are of each row's own forward pass; leave one "
                "of the two out"
            )
        return self

    @model_validator(mode="after")
    def engine_has_statistics(self) -> "Job":
        engines = [model.engine for model in self.each_model.values()]
        if self.attention and "openvino" in engines:
            raise ValueError(
                "attention: model.engine openvino gives no statistics; use torch or auto"
            )
        return self

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON schema of job files (draft 2020-12)."""
        found = cls.model_json_schema()
        found["properties"]["run"] = {**found["properties"]["run"], "type": ["string", "integer"]}
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **found,
            "title": "A job of bertbatch",
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str], changes: list[str] | None = None) -> "Job":
        """The job in a YAML file, with `a.b=c` changes applied.

        Raises JobError: no such file, not YAML, unknown keys, wrong types.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            data = read_yaml(text)
        except OSError as error:
            raise JobError(f"{path}: cannot read the job file: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise JobError(
                f"{path}: byte {error.start + 1} is not UTF-8; save it as such"
            ) from None
        except ValueError as error:
            raise JobError(f"{path}: {error}") from None
        if not isinstance(data, dict):
            raise JobError(
                f"{path}: a job file has keys with values, at least 'input' and 'output'; see "
                "`bertbatch init`"
            )
        return cls._built(data, str(path), changes, lambda keys: line_of(text, keys))

    @classmethod
    def build(
        cls, data: dict[str, Any], where: str = "job", changes: list[str] | None = None
    ) -> "Job":
        """The job described by nested dicts, with `a.b=c` changes applied.

        Raises JobError naming each wrong key.
        """
        return cls._built(data, where, changes, lambda keys: None)

    @classmethod
    def _built(
        cls,
        data: dict[str, Any],
        where: str,
        changes: list[str] | None,
        line: Callable[[Location], int | None],
    ) -> "Job":
        """As `build`; `line` is where a key is in a file, if it is known."""
        data = copy.deepcopy(data)
        for change in changes or []:
            override(data, change)
            models = data.get("models")
            if change.startswith("model.") and isinstance(models, list):
                for one in models:  # which may set the key themselves
                    override(one, change.removeprefix("model."))
        try:
            return cls.model_validate(data)._filled()
        except ValidationError as error:
            lines = []
            for problem in problems(error, Job):
                place, said = where, problem.said
                if changed := _changed(problem.location, changes or []):
                    place = f"--{changed}" if changed in ("date", "run") else f"--set {changed}"
                    said = said.removeprefix(f"'{changed}': ")
                elif number := line(problem.location):
                    place = f"{where}, line {number}"
                lines.append(f"{place}: {said}")
            raise JobError("\n".join(lines)) from None
        except ValueError:  # pydantic's own
            raise JobError(f"{where}: a number has thousands of digits") from None

    def _filled(self) -> "Job":
        """With each placeholder in a path replaced by what it means. Raises JobError."""

        def filled(key: str, path: Any) -> Any:
            if isinstance(path, list):
                return [filled(key, one) for one in path]
            return path and fill(key, path, self.date, self.run)

        changes: dict[str, Any] = {}
        for section, key in (("input", "path"), ("output", "path"), ("alarms", "against")):
            old = getattr(self, section)
            new = filled(f"{section}.{key}", getattr(old, key))
            changes[section] = old.model_copy(update={key: new})
        return self.model_copy(update=changes)


def _changed(location: Location, changes: list[str]) -> str:
    """The key of the change that set a key, or what it is in, if one did."""
    name = ".".join(map(str, location)) + "."
    keys = [change.partition("=")[0].strip() for change in changes]
    return next((key for key in keys[::-1] if name.startswith(f"{key}.")), "")
