"""The command line: each command builds a job, then calls the library.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

from pathlib import Path
from typing import Annotated

import typer

from bertbatch.command import (
    OutputPath,
    command,
    of_job,
)
from bertbatch.command import app as app
from bertbatch.commands import job_files as job_files
from bertbatch.commands import jobs as jobs
from bertbatch.commands import judging as judging
from bertbatch.errors import JobError
from bertbatch.job.schema import Job
from bertbatch.job.types import split_commas


@command
def status(
    output: OutputPath,
    last: Annotated[int, typer.Option(min=1, help="how many runs to show")] = 14,
) -> None:
    """Show how a job stands and what its last runs did, from its output alone."""

    from bertbatch.checks.status import read_status
    from bertbatch.display.status import show_status
    from bertbatch.output.folder import open_output

    show_status(read_status(open_output(output), last))


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


@command
def attention(
    output: OutputPath,
    to: Annotated[
        Path | None,
        typer.Option(
            help="also write all figures to this Parquet file; with --plot: the .png or .svg",
            show_default="none",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="another output to compare with, at equal lengths", show_default="none"),
    ] = None,
    across_models: Annotated[
        bool, typer.Option("--across-models", help="also compare outputs of different weights")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="which of several models: what its columns begin with", show_default="the only one"
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(help="draw this statistic of every head instead", show_default="none"),
    ] = None,
    group: Annotated[
        str, typer.Option(help="of --plot: whose rows: all, label, length or column")
    ] = "all",
    value: Annotated[
        str, typer.Option(help="of --plot: the value that the rows have", show_default="none")
    ] = "",
) -> None:
    """Show the corpus's statistics of every head, or compare two corpora."""

    from bertbatch.attention.comparison import compare_outputs
    from bertbatch.attention.corpus import read_corpus
    from bertbatch.display.attention_tables import (
        check_outside,
        show_comparison,
        show_corpus,
        write_table,
    )
    from bertbatch.output.folder import open_output

    this = open_output(output)
    if plot is not None or group != "all" or value:
        judging.plot_attention(output, plot, group, value, to, against, model)
        return
    other = None if against is None else open_output(against)
    if to is not None:
        check_outside(to, [output, *([against] if against else [])])
    if other is None:
        corpus = read_corpus(this, model)
        show_corpus(corpus)
        table = corpus.tidy()
    else:
        table = compare_outputs(this, other, across_models, model)
        show_comparison(table)
    if to is not None:
        write_table(table, to)


@command
def peek(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="one text")],
    second: Annotated[
        str | None, typer.Argument(metavar="SECOND", help="the second text of a pair")
    ] = None,
    model: Annotated[str | None, of_job("model.name")] = None,
    token: Annotated[
        str | None,
        typer.Option(help="whose attention: one of the tokens", show_default="the first"),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(min=1, help="one layer's heads", show_default="all layers")
    ] = None,
    head: Annotated[
        int | None, typer.Option(min=1, help="one head of each layer", show_default="all heads")
    ] = None,
    heads: Annotated[int, typer.Option(min=1, help="how many heads, the strongest first")] = 3,
    html: Annotated[
        Path | None,
        typer.Option(
            help="also write a page to look around in: all heads and tokens", show_default="none"
        ),
    ] = None,
) -> None:
    """Show one text's tokens, its prediction, and where its attention goes."""

    from bertbatch.attention.inspect import inspect_text
    from bertbatch.display.attention_tables import show_inspection
    from bertbatch.display.peek_page.page import Shown, write_page
    from bertbatch.job.model import Model

    settings = Model(name=model) if model else Model()
    inspection = inspect_text(settings, text, second, with_statistics=html is not None)
    query, chosen = show_inspection(inspection, token, layer, head, heads)
    if html is not None:
        texts = [text] if second is None else [text, second]
        write_page(Shown(texts, settings.name, inspection, query, chosen), html)


if __name__ == "__main__":
    app()
