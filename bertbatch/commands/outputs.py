"""Commands that read an output: how it stands, whether it is right, a copy of it."""

from pathlib import Path
from typing import Annotated

import typer

from bertbatch.commands.command import command
from bertbatch.commands.options import OutputPath
from bertbatch.errors import JobError
from bertbatch.job.schema import Job
from bertbatch.job.types import split_commas


@command
def status(
    output: OutputPath,
    last: Annotated[int, typer.Option(min=1, help="how many runs to show")] = 14,
    quarantined: Annotated[
        bool,
        typer.Option("--quarantined", help="list all rows in quarantine: source, row, reason"),
    ] = False,
) -> None:
    """Show how a job stands and what its last runs did, from its output alone."""

    from bertbatch.checks.status import read_status
    from bertbatch.display.status import show_quarantined, show_status
    from bertbatch.output.folder import open_output

    found = read_status(open_output(output), last)
    if quarantined:
        show_quarantined(found)
    else:
        show_status(found)


@command
def verify(
    output: OutputPath,
    clean: Annotated[bool, typer.Option("--clean", help="delete orphaned side files")] = False,
    rescore: Annotated[
        int, typer.Option(min=0, help="score this many random rows again and compare")
    ] = 0,
    job: Annotated[
        Path | None,
        typer.Option(help="the job file, for --rescore: where the input is", show_default="none"),
    ] = None,
) -> int:
    """Check the output against its files: every row exactly once, nothing damaged."""

    from bertbatch.checks.verify import verify
    from bertbatch.display.verdict import show_verdict
    from bertbatch.output.folder import open_output

    if rescore and job is None:
        raise JobError("--rescore reads the input again: name the job file with --job")
    verdict = verify(open_output(output), clean)
    if rescore and job is not None:
        from bertbatch.checks.rescore import rescore as again

        again(Job.load(job), output, rescore, verdict)
    show_verdict(verdict)
    return 0 if verdict.right else 3


@command
def export(
    output: OutputPath,
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="the file, folder or table to write")
    ],
    format: Annotated[
        str | None,
        typer.Option(
            help="parquet, csv, jsonl, delta or iceberg",
            show_default="by TARGET's name, or parquet",
        ),
    ] = None,
    partition_by: Annotated[
        str | None,
        typer.Option(help="columns whose values become folders: a,b", show_default="none"),
    ] = None,
    with_input: Annotated[
        bool, typer.Option("--with-input", help="add the columns of the input")
    ] = False,
    class_columns: Annotated[
        bool, typer.Option("--class-columns", help="a column for each class in place of scores")
    ] = False,
    job: Annotated[
        Path | None,
        typer.Option(
            help="the job file, for --with-input: where the input is",
            show_default="as the run had it",
        ),
    ] = None,
) -> None:
    """Copy the predictions into files or a table for other programs; again adds what is new."""

    from bertbatch.display.exported import show_exported
    from bertbatch.exports.export import Request, export

    by = tuple(split_commas(partition_by or ""))
    known = Job.load(job) if job else None
    show_exported(export(Request(output, target, format, by, with_input, class_columns, known)))
