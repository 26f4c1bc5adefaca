"""The command line: each command builds a job, then calls the library.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from bertbatch.command import Date, JobFile, Log, Name, Set, Style, Verbose, command
from bertbatch.command import app as app
from bertbatch.errors import JobError
from bertbatch.job.schema import Job
from bertbatch.job.types import split_commas
from bertbatch.judging_commands import compare, evaluate, plot_attention, report


@command
def score(
    input: Annotated[str, typer.Argument(help="a file, folder or glob; local or s3://, gs://, …")],
    output: Annotated[str, typer.Argument(help="the folder or URL for the predictions")],
    text: Annotated[
        str | None, typer.Option(help="the column with the text; default: text")
    ] = None,
    text_pair: Annotated[str | None, typer.Option(help="the column with the second text")] = None,
    carry: Annotated[str | None, typer.Option(help="columns to copy: a,b or a:new_name")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="packaged name, folder, URL or Hub id (repeatable: several models)"),
    ] = None,
    task: Annotated[str | None, typer.Option(help="auto, single_label, …; default: auto")] = None,
    long_text: Annotated[
        str | None, typer.Option(help="truncate, windows or head_tail; default: truncate")
    ] = None,
    candidate_labels: Annotated[
        str | None, typer.Option(help="the labels of --task zero_shot: a,b,c")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="truncate texts to this many tokens")
    ] = None,
    unit_rows: Annotated[int | None, typer.Option(help="maximum rows in a unit")] = None,
    runner: Annotated[str | None, typer.Option(help="auto, ray or inline; default: auto")] = None,
    format: Annotated[
        str | None, typer.Option(help="auto, parquet, csv, jsonl, …; default: auto")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="score only rows for which this SQL condition is true")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="score only the first N rows")] = None,
    attention: Annotated[
        bool, typer.Option("--attention", help="also compute statistics of every attention head")
    ] = False,
    set: Set = None,
    log: Log = "auto",
    verbose: Verbose = False,
) -> int:
    """Score INPUT into OUTPUT; the same command again resumes."""
    given: dict[str, dict[str, Any]] = {
        "input": {
            **{"path": input, "text": text, "text_pair": text_pair, "carry": carry},
            **{"format": format, "where": where, "limit": limit},
        },
        "output": {"path": output},
        "model": {
            **{"task": task, "max_length": max_length, "long_text": long_text},
            "candidate_labels": candidate_labels,
        },
        "runtime": {"runner": runner, "unit_rows": unit_rows},
    }
    data: dict[str, Any] = {
        s: {k: v for k, v in keys.items() if v is not None} for s, keys in given.items()
    }
    if model and len(model) > 1:
        data["models"] = [{"name": one} for one in model]
    elif model:
        data["model"]["name"] = model[0]
    if attention:
        data["attention"] = {}
    return _run(lambda: Job.build(data, "command line", set), log, verbose)


@command
def run(
    job: JobFile,
    set: Set = None,
    date: Date = None,
    name: Name = None,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="score rows in quarantine again")
    ] = False,
    log: Log = "auto",
    verbose: Verbose = False,
) -> int:
    """Run a job file; the same command again resumes, or scores only what is new."""
    changes = _changes(set, date, name)
    if retry_quarantined:
        changes.append("runtime.retry_quarantined=true")
    return _run(lambda: Job.load(job, changes), log, verbose)


@command
def plan(
    job: JobFile,
    set: Set = None,
    date: Date = None,
    name: Name = None,
) -> None:
    """Show what a job would do: sources, units, rows, done and pending. Writes nothing."""

    from bertbatch.checks.estimate import estimate
    from bertbatch.display.plan import show_plan
    from bertbatch.runtime.run import preflight
    from bertbatch.runtime.source_changes import find_changes

    found = preflight(Job.load(job, _changes(set, date, name)))
    changes = find_changes(found)
    if found.work():
        found.output.check_access()
    show_plan(estimate(found, changes))


@command
def submit(
    job: JobFile,
    address: Annotated[
        str,
        typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="the cluster's dashboard, http://…"),
    ],
    set: Set = None,
    date: Date = None,
    name: Name = None,
    id: Annotated[str | None, typer.Option("--id", help="the submission's id")] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="exit after submitting, without following the job")
    ] = False,
    package: Annotated[
        bool, typer.Option(help="upload bertbatch itself; --no-package if the image has it")
    ] = True,
    retries: Annotated[int, typer.Option(min=0, help="resubmit this often if the driver dies")] = 2,
) -> int:
    """Run a job file on a Ray cluster, follow its log, and exit with its code."""

    from bertbatch.display.progress import ask_to_stop, make_listener
    from bertbatch.runtime.submit import Submission, submit

    changes = _changes(set, date, name)
    with closing(make_listener("plain")):
        return submit(
            Submission(job, changes, address, id, package, retries),
            detach,
            ask_to_stop,
            lambda text: print(text, end="", flush=True),
        )


@command
def status(
    output: Annotated[str, typer.Argument(help="the output of a job, running or not")],
    last: Annotated[int, typer.Option(min=1, help="how many runs to show")] = 14,
) -> None:
    """Show how a job stands and what its last runs did, from its output alone."""

    from bertbatch.checks.status import read_status
    from bertbatch.display.status import show_status
    from bertbatch.output.folder import open_output

    show_status(read_status(open_output(output), last))


@command
def verify(
    output: Annotated[str, typer.Argument(help="the output of a job")],
    clean: Annotated[bool, typer.Option("--clean", help="delete orphaned side files")] = False,
    rescore: Annotated[
        int, typer.Option(min=0, help="score this many random rows again and compare")
    ] = 0,
    job: Annotated[
        Path | None, typer.Option(help="the job file, for --rescore: where the input is")
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
    output: Annotated[str, typer.Argument(help="the output of a job")],
    target: Annotated[str, typer.Argument(help="the file, folder or table to write; or a URL")],
    format: Annotated[
        str | None,
        typer.Option(help="parquet, csv, jsonl, delta; default: by TARGET's name, or parquet"),
    ] = None,
    partition_by: Annotated[
        str | None, typer.Option(help="columns whose values become folders: a,b")
    ] = None,
    with_input: Annotated[
        bool, typer.Option("--with-input", help="add the columns of the input")
    ] = False,
    class_columns: Annotated[
        bool, typer.Option("--class-columns", help="a column for each class in place of scores")
    ] = False,
    job: Annotated[
        Path | None, typer.Option(help="the job file, for --with-input: where the input is")
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
    output: Annotated[str, typer.Argument(help="an output scored with attention statistics")],
    to: Annotated[
        Path | None,
        typer.Option(help="the file to write; default: attention.parquet; .png or .svg for --plot"),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="another output to compare with, at equal lengths")
    ] = None,
    across_models: Annotated[
        bool, typer.Option("--across-models", help="also compare outputs of different weights")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="which of several models: what its columns begin with")
    ] = None,
    plot: Annotated[
        str | None, typer.Option(help="draw this statistic of every head, and write no table")
    ] = None,
    group: Annotated[
        str, typer.Option(help="of --plot: whose rows: all, label, length or column")
    ] = "all",
    value: Annotated[str, typer.Option(help="of --plot: the value that the rows have")] = "",
) -> None:
    """Write the corpus's statistics of every head as one table, or compare two corpora."""

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
        plot_attention(output, plot, group, value, to, against, model)
        return
    other = None if against is None else open_output(against)
    path = to or Path("attention.parquet" if other is None else "comparison.parquet")
    check_outside(path, [output, *([against] if against else [])])
    if other is None:
        corpus = read_corpus(this, model)
        show_corpus(corpus)
        table = corpus.tidy()
    else:
        table = compare_outputs(this, other, across_models, model)
        show_comparison(table)
    write_table(table, path)


for judging in (evaluate, compare, report):
    command(judging)


@command
def peek(
    text: Annotated[str, typer.Argument(help="one text")],
    second: Annotated[str | None, typer.Argument(help="the second text of a pair")] = None,
    model: Annotated[str | None, typer.Option(help="packaged name, folder, URL or Hub id")] = None,
    token: Annotated[
        str | None, typer.Option(help="whose attention: one of the tokens; default: the first")
    ] = None,
    layer: Annotated[int | None, typer.Option(min=1, help="one layer's heads")] = None,
    head: Annotated[int | None, typer.Option(min=1, help="one head of each layer")] = None,
    heads: Annotated[int, typer.Option(min=1, help="how many heads, the strongest first")] = 3,
) -> None:
    """Show one text's tokens, its prediction, and where its attention goes."""

    from bertbatch.attention.inspect import inspect_text
    from bertbatch.display.attention_tables import show_inspection
    from bertbatch.job.model import Model

    settings = Model(name=model) if model else Model()
    show_inspection(inspect_text(settings, text, second), token, layer, head, heads)


def _changes(set: list[str] | None, date: str | None, name: str | None) -> list[str]:
    given = {"date": date, "run": name}
    return [*(set or []), *(f"{key}={value!r}" for key, value in given.items() if value)]


def _run(build: Any, log: Style, verbose: bool) -> int:
    from bertbatch.runtime.executors.start import Starting

    job = build()
    with Starting(job, verbose) as starting:  # a child imports torch while this process imports:
        from bertbatch.display.progress import make_listener
        from bertbatch.runtime.run import run_started

        with closing(make_listener(log)) as listener:
            return run_started(job, starting, listener).exit_code


if __name__ == "__main__":
    app()
