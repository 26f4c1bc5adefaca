"""Commands about job files."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bertbatch.commands.command import command
from bertbatch.commands.options import Input
from bertbatch.errors import JobError
from bertbatch.job.schema import Job


@command
def init(
    input: Input,
    to: Annotated[
        Path | None,
        typer.Option(help="write it to this new file", show_default="standard output"),
    ] = None,
) -> None:
    """Look at some data and print a job file for it, with comments."""

    from bertbatch.checks.draft import draft
    from bertbatch.display.files import check_ending
    from bertbatch.display.lines import show

    if to is not None:
        check_ending("--to", to, "a job file", (".yaml", ".yml"))
    text = draft(input)
    if to is None:
        print(text, end="")
        return
    try:
        with open(to, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise JobError(f"--to {to}: there is such a file; name a new one") from None
    except OSError as error:
        raise JobError(f"--to {to}: cannot be written: {error.strerror}") from error
    show(f"{to} written; run it with: bertbatch run {to}")


@command
def schema() -> None:
    """Print the JSON schema of job files, by which editors complete and check them."""
    print(json.dumps(Job.json_schema(), indent=1, ensure_ascii=False))
