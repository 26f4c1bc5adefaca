"""Commands that judge or show what an output holds."""

from pathlib import Path
from typing import Annotated

import typer

from bertbatch.commands.command import command
from bertbatch.commands.options import OutputPath
from bertbatch.errors import Alarm, JobError

GOLD = "the output's column with the right answers"
Gold = Annotated[str | None, typer.Option(help=GOLD, show_default="none")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object")]
OfModel = Annotated[
    str | None,
    typer.Option(
        help="which of several models: what its columns begin with", show_default="the only one"
    ),
]


@command
def evaluate(
    output: OutputPath,
    gold: Annotated[str, typer.Option(help=GOLD)],
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="exit with 4 if the accuracy is below this", show_default="none"
        ),
    ] = None,
    json: Json = False,
    model: OfModel = None,
) -> None:
    """Judge the predictions by a carried column that has the right answers."""

    from bertbatch.checks.evaluate import evaluate
    from bertbatch.display.evaluation import evaluation_record, show_evaluation
    from bertbatch.display.plain_json import show_json
    from bertbatch.output.folder import open_output

    found = evaluate(open_output(output), gold, model)
    if min_accuracy is not None and found.accuracy is None:
        raise JobError("--min-accuracy: numbers have errors, and no accuracy; leave it out")
    if json:
        show_json(evaluation_record(found))
    else:
        show_evaluation(found)
    if min_accuracy is not None and (found.accuracy or 0.0) < min_accuracy:
        raise Alarm(f"accuracy {found.accuracy:.4f} is below {min_accuracy:g} (--min-accuracy)")


@command
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="the output of a job")],
    b: Annotated[str, typer.Argument(metavar="B", help="another output over the same rows")],
    gold: Gold = None,
    json: Json = False,
    limit: Annotated[
        int, typer.Option(min=0, help="how many rows with different answers to show")
    ] = 10,
    model: OfModel = None,
) -> None:
    """Compare two outputs over the same rows: where they agree, which answers changed."""

    from bertbatch.checks.compare import compare
    from bertbatch.display.agreement import agreement_record, show_agreement
    from bertbatch.display.plain_json import show_json
    from bertbatch.output.folder import open_output

    found = compare(open_output(a), open_output(b), gold, limit, model)
    if json:
        show_json(agreement_record(found))
    else:
        show_agreement(found)


@command
def report(
    output: OutputPath,
    to: Annotated[Path, typer.Option(help="the HTML file to write, such as report.html")],
    against: Annotated[
        str | None,
        typer.Option(help="another output over the same rows to compare with", show_default="none"),
    ] = None,
    gold: Gold = None,
    model: OfModel = None,
) -> None:
    """Write a report on an output as one HTML file, from its committed files alone."""

    from bertbatch.display.lines import show
    from bertbatch.output.folder import open_output
    from bertbatch.report.page import write_report

    other = None if against is None else open_output(against)
    size = write_report(open_output(output), to, other, gold, model)
    show(f"{size / 1e6:.1f} MB written to {to}")
