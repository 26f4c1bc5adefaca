"""The job file: one pydantic model, validated before anything starts.

A job is a complete configuration; the command line's flags and `--set` build the same
model. What each key means is said once, in its description, and error messages quote it.
"""

import copy
import datetime as dt
import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from bertbatch.errors import JobError
from bertbatch.job.carry import carried, check_carried
from bertbatch.job.messages import explain
from bertbatch.job.model import Model
from bertbatch.job.overrides import override
from bertbatch.job.placeholders import fill
from bertbatch.job.safe_yaml import read_yaml
from bertbatch.job.text_template import columns_of
from bertbatch.job.types import (
    CommaList,
    CountOrAuto,
    Format,
    MibOrAuto,
    Section,
    StorageOptions,
    split_commas,
)
from bertbatch.registry import DEFAULT_STATISTICS, STATISTICS


class Csv(Section):
    delimiter: str = Field(",", description="the one ASCII character between fields")
    quote: str = Field('"', description="the one ASCII character around quoted fields")
    header: bool = Field(True, description="whether the first line names the columns")
    encoding: Literal["utf-8", "cp932", "euc-jp", "latin-1", "cp1252"] = Field(
        "utf-8", description="how the file's text is encoded"
    )

    @field_validator("delimiter", "quote")
    @classmethod
    def one_ascii_character(cls, value: str) -> str:
        if len(value) != 1 or not value.isascii() or value in "\r\n":
            raise ValueError("must be one ASCII character, and no line end")
        return value

    @model_validator(mode="after")
    def distinguishable(self) -> "Csv":
        if self.delimiter == self.quote:
            raise ValueError("delimiter and quote are the same character")
        for character in (self.delimiter, self.quote):
            # Only such bytes are also the second byte of a cp932 character.
            if self.encoding == "cp932" and ord(character) >= 0x40:
                raise ValueError(f"'{character}' can be half a character in cp932; use another")
        return self


class Input(Section):
    path: str | list[str] = Field(description="a file, a folder, a glob, or a list of them")
    format: Format = Field("auto", description="the input's format; auto goes by the files' names")
    text: str = Field("text", description="the column that holds the text to score")
    text_pair: str | None = Field(
        None, description="the column with the pair text, for models that score pairs"
    )
    template: str | None = Field(
        None, description="the text from several columns, instead of `text`; null ones are empty"
    )
    normalize: Annotated[
        list[Literal["nfkc", "html", "whitespace"]], BeforeValidator(split_commas)
    ] = Field(
        [],
        description="what is done to each text, in this order: nfkc (Unicode's compatible "
        "characters become one), html (only the text of HTML), whitespace (single spaces)",
    )
    prefix: str = Field("", description="what is put before each text, but not before `text_pair`")
    carry: CommaList = Field(
        [], description="columns to copy to the output, each 'column' or 'column:new_name'"
    )
    csv: Csv = Field(Csv(), description="the dialect of CSV input")
    limit: int | None = Field(None, ge=1, description="score only the first N rows")
    min_age: float = Field(
        0,
        ge=0,
        description="seconds; younger files are left out, since they may still be being written",
    )
    on_changed_source: Literal["fail", "keep"] = Field(
        "fail", description="what to do when a file changed after it was scored"
    )
    on_removed_source: Literal["keep", "fail"] = Field(
        "keep", description="what to do when a file that was planned is gone"
    )
    storage_options: StorageOptions = Field({})

    @property
    def paths(self) -> list[str]:
        """What `path` names, one or several."""
        return [self.path] if isinstance(self.path, str) else self.path

    @property
    def texts(self) -> dict[str, list[str]]:
        """The columns of each text, by its key in the job."""
        pair = {"text_pair": [self.text_pair]} if self.text_pair is not None else {}
        if self.template is not None:
            return {"template": columns_of(self.template), **pair}
        return {"text": [self.text], **pair}

    @property
    def text_columns(self) -> list[str]:
        """The columns of all texts, each once."""
        return list(dict.fromkeys(column for columns in self.texts.values() for column in columns))

    @property
    def prepares(self) -> dict[str, Any]:
        """How texts are made, where that is not a column's own text."""
        given = {key: getattr(self, key) for key in ("template", "normalize", "prefix")}
        return {key: value for key, value in given.items() if value}

    @property
    def carried(self) -> dict[str, str]:
        """The input's column of each carried output column, by the output's name."""
        return {new: old for old, new in map(carried, self.carry)}

    @field_validator("path")
    @classmethod
    def not_empty(cls, value: str | list[str]) -> str | list[str]:
        if not value or (isinstance(value, list) and "" in value):
            raise ValueError("must name at least one file, folder or glob")
        return value

    @field_validator("template")
    @classmethod
    def names_columns(cls, value: str | None) -> str | None:
        if value is not None:
            columns_of(value)
        return value

    @model_validator(mode="after")
    def one_text(self) -> "Input":
        if self.template is not None and self.text != type(self).model_fields["text"].default:
            raise ValueError("input.template and input.text both say what the text is; keep one")
        return self

    @field_validator("carry")
    @classmethod
    def no_clash(cls, value: list[str]) -> list[str]:
        check_carried(value)
        return value


class Output(Section):
    path: str = Field(description="the folder or URL where the parts go")
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
    max_quarantined: float = Field(
        0.05, ge=0, le=1, description="the share of rows in quarantine above which a run stops"
    )


class Alarms(Section):
    label_share: float | None = Field(
        None, gt=0, le=1, description="how far a label's share may move from the run before"
    )
    quarantined: float | None = Field(
        None, ge=0, le=1, description="the share of a run's rows that may be in quarantine"
    )
    empty_input: bool = Field(False, description="whether an input without rows is an alarm")
    nothing_new: bool = Field(False, description="whether a run without new rows is an alarm")
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
    model: Model = Field(Model(), description="what scores the text")
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

    @field_validator("date", mode="before")
    @classmethod
    def a_day(cls, value: Any) -> Any:
        # pydantic would take 20261124 for seconds since 1970.
        return dt.date.fromisoformat(str(value))

    @model_validator(mode="after")
    def groups_exist(self) -> "Job":
        column = self.attention.group_by if self.attention else None
        if column is not None and column not in self.input.carried:
            raise ValueError(
                f"attention.group_by: '{column}' is not carried; add it to input.carry"
            )
        return self

    @model_validator(mode="after")
    def engine_has_statistics(self) -> "Job":
        if self.attention and self.model.engine == "openvino":
            raise ValueError(
                "attention: model.engine openvino gives no statistics; use torch or auto"
            )
        return self

    @classmethod
    def load(cls, path: str | os.PathLike[str], changes: list[str] | None = None) -> "Job":
        """The job in a YAML file, with `a.b=c` changes applied.

        Raises JobError: no such file, not YAML, unknown keys, wrong types.
        """
        try:
            data = read_yaml(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise JobError(f"{path}: cannot read the job file: {error.strerror}") from error
        except ValueError as error:
            raise JobError(f"{path}: not a YAML file: {error}") from None
        if not isinstance(data, dict):
            raise JobError(f"{path}: a job file is a mapping with at least 'input' and 'output'")
        return cls.build(data, str(path), changes)

    @classmethod
    def build(
        cls, data: dict[str, Any], where: str = "job", changes: list[str] | None = None
    ) -> "Job":
        """The job described by nested dicts, with `a.b=c` changes applied.

        Raises JobError naming each wrong key.
        """
        data = copy.deepcopy(data)
        for change in changes or []:
            override(data, change)
        try:
            return cls.model_validate(data)._filled()
        except ValidationError as error:
            lines = [f"{where}: {explain(e, Job)}" for e in error.errors(include_url=False)]
            raise JobError("\n".join(lines)) from None
        except ValueError as error:  # pydantic's own, of a number with thousands of digits
            raise JobError(f"{where}: {error}") from None

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
