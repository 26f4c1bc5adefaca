"""Commands about attention: of a corpus, or of one text."""

from pathlib import Path
from typing import Annotated

import typer

from bertbatch.commands.command import command
from bertbatch.commands.options import OutputPath, of_job
from bertbatch.errors import JobError


@command
def attention(
    output: OutputPath,
    to: Annotated[
        Path | None,
        typer.Option(
            help="also write all figures to this .parquet, .csv or .jsonl file; with --plot: the "
            ".png or .svg",
            show_default="none",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="another output to compare with, within ranges of text length",
            show_default="none",
        ),
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
        str,
        typer.Option(help="of --plot: whose rows: all, label, length, or the column grouped by"),
    ] = "all",
    value: Annotated[
        str, typer.Option(help="of --plot: the value that the rows have", show_default="none")
    ] = "",
) -> None:
    """Show the corpus's statistics of every head, or compare two corpora."""

    from bertbatch.attention.comparison import compare_outputs
    from bertbatch.attention.corpus import read_corpus
    from bertbatch.display.attention_tables import show_comparison, show_corpus
    from bertbatch.display.files import check_table, write_table
    from bertbatch.output.folder import open_output

    this = open_output(output)
    if plot is not None or group != "all" or value:
        _plot(output, plot, group, value, to, against, model)
        return
    if across_models and against is None:
        raise JobError("--across-models is about a comparison: add --against, another output")
    other = None if against is None else open_output(against)
    if to is not None:
        check_table(to, [output, *([against] if against else [])])
    if other is None:
        corpus = read_corpus(this, model)
        show_corpus(corpus)
        table = corpus.tidy()
    else:
        found = compare_outputs(this, other, across_models, model)
        show_comparison(found, this.path, other.path)
        table = found.table
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
        typer.Option(
            help="whose attention: one of the tokens; the:2 is its second, @5 the fifth of all",
            show_default="the first",
        ),
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
    from bertbatch.display.files import PAGE, check_ending
    from bertbatch.display.peek_page.page import Shown, write_page
    from bertbatch.job.model import Model

    if html is not None:
        check_ending("--html", html, "a page", PAGE)
    settings = Model(name=model) if model else Model()
    inspection = inspect_text(settings, text, second, with_statistics=html is not None)
    query, chosen = show_inspection(inspection, token, layer, head, heads)
    if html is not None:
        texts = [text] if second is None else [text, second]
        write_page(Shown(texts, settings.name, inspection, query, chosen), html)


def _plot(
    output: str,
    statistic: str | None,
    group: str,
    value: str,
    to: Path | None,
    against: str | None,
    model: str | None,
) -> None:
    """What `bertbatch attention --plot` does. Raises JobError for what cannot be drawn."""

    from bertbatch.attention.corpus import read_corpus
    from bertbatch.display.files import check_outside
    from bertbatch.display.lines import show
    from bertbatch.output.folder import open_output
    from bertbatch.report.plot import plot_heads

    if statistic is None:
        raise JobError("--group, --value choose the rows of a picture: add --plot, a statistic")
    if against is not None:
        raise JobError("--plot draws one output; leave out --against, or see bertbatch report")
    if to is None:
        raise JobError("--to is missing: name the picture, such as --to entropy.png")
    check_outside(to, [output])
    plot_heads(read_corpus(open_output(output), model), statistic, group, value, to)
    show(f"written to {to}")
