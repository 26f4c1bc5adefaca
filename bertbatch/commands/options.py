"""Options of several commands, INPUT, JOB, OUTPUT among them."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from bertbatch.job.schema import Job


def of_job(key: str, default: str = "none", more: str = "") -> Any:
    """An option that sets a key of the job: what it means is said there.

    `default` says what holds without it, where the key's own default does not.
    """
    section, _, name = key.partition(".")
    shape = Job.model_fields[section].annotation.model_fields[name]  # type: ignore[union-attr]
    shown = default if shape.default in (None, [], "") else str(shape.default)
    choices = [str(one) for one in _choices(shape.annotation)]
    named = f" ({', '.join(choices)})" if choices else ""
    return typer.Option(help=f"{shape.description}{named}{more}", show_default=shown)


def _choices(kind: Any) -> list[Any]:
    """The values that a type is made of, if it is made of values."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [value for inner in get_args(kind) for value in _choices(inner)]


Input = Annotated[
    str,
    typer.Argument(metavar="INPUT", help="a file, folder or glob; local or s3://, gs://, …"),
]
JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="the job file")]
OutputPath = Annotated[
    str, typer.Argument(metavar="OUTPUT", help="the output of a job: a folder or URL")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="change a key: a.b=c, of a list: a.b=c,d (repeatable)", show_default="none"
    ),
]
Date = Annotated[
    str | None,
    typer.Option("--date", help="the day that {date} in paths means", show_default="today"),
]
Name = Annotated[
    str | None,
    typer.Option("--run", help="the name that {run} in paths means", show_default="the time"),
]
Style = Literal["auto", "plain", "json"]
Log = Annotated[
    Style,
    typer.Option("--log", help="progress as a display, plain lines or JSON lines"),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="also show Ray's own messages")]
