"""The attention statistics of a corpus, a comparison or a text, as tables."""

from typing import TYPE_CHECKING

import numpy as np
from rich.padding import Padding
from rich.text import Text

from bertbatch.attention.aggregates import ALL, COLUMN
from bertbatch.attention.comparison import FALSE_DISCOVERIES, LEAST_ROWS, Comparison
from bertbatch.attention.corpus import Corpus
from bertbatch.display.answers import spelled
from bertbatch.display.grid import Grid
from bertbatch.display.lines import show
from bertbatch.errors import JobError
from bertbatch.wording import counted, shorten

if TYPE_CHECKING:  # it imports torch, and tables of a corpus need none
    from bertbatch.attention.inspect import Inspection

TOP_HEADS = 20  # shown of a comparison


def show_corpus(corpus: Corpus) -> None:
    """The mean of every statistic in each layer over all rows, and its strongest head."""
    layers = [str(layer + 1) for layer in range(corpus.layers)]
    grid = Grid("layer", *layers, "most in")
    rows = 0
    for name in corpus.tops:
        if (ALL, "", name) not in corpus.keys:
            continue
        cell = corpus.aggregate((ALL, "", name))
        mean = cell["mean"].reshape(corpus.layers, corpus.heads)
        layer, head = np.unravel_index(mean.argmax(), mean.shape)
        grid.add(name, *(f"{x:.3g}" for x in mean.mean(1)), f"{layer + 1}.{head + 1}")
        rows = max(rows, int(cell["rows"]))
    show(
        grid,
        f"means of {corpus.heads} heads over {rows:,} rows; 'most in': the layer.head of the "
        "largest mean",
    )
    if values := corpus.groups(COLUMN):
        name = corpus.called(COLUMN)
        show(f"also by {name}: {shorten(values)}; --plot draws one with --group {name} --value")


def show_inspection(
    inspection: "Inspection", token: str | None, layer: int | None, head: int | None, count: int
) -> tuple[int, tuple[int, int]]:
    """A text's answer, and where one token's attention goes in some heads.

    Returns the token's place and the first of these heads (layer, head), from 0. Raises JobError
    for a token, layer or head that there is not.
    """
    layers, heads = inspection.weights.shape[:2]
    for name, asked, have in (("layer", layer, layers), ("head", head, heads)):
        if asked is not None and asked > have:
            raise JobError(f"--{name} {asked}: the model has {have} {name}s")
    query = inspection.query(token)
    strongest = inspection.strongest_heads(query, layers * heads)
    chosen = [
        (at, of) for at, of in strongest if layer in (None, at + 1) and head in (None, of + 1)
    ][: 1 if layer and head else count]
    for name, value in inspection.answer.items():
        show(f"{name}: {spelled(value)}")
    for warning in inspection.warnings:
        show(f"warning: {warning}")
    if not strongest:
        show("no word to look at: there are only special tokens")
    for at, of in chosen:
        weights = inspection.weights[at, of, query]
        shaded = Text()
        for word, weight in zip(inspection.tokens, weights / weights.max(), strict=True):
            shaded.append(word, style=_shade(float(weight)))
            shaded.append(" ")
        best = np.argsort(-weights, kind="stable")[:5]
        numbers = ", ".join(f"{inspection.named[i]} {weights[i]:.2f}" for i in best)
        heading = f"layer {at + 1}, head {of + 1}, from {inspection.named[query]}:"
        show("", heading, shaded, Padding(Text(numbers), (0, 0, 0, 2)))
    first = ((layer or 1) - 1, (head or 1) - 1)
    return query, chosen[0] if chosen else first


def _shade(weight: float) -> str:
    """A background from white to dark orange, with letters that can be read on it."""
    green, blue = int(255 - 115 * weight), int(255 - 255 * weight)
    return f"black on rgb(255,{green},{blue})"


def show_comparison(found: Comparison, this: str, other: str) -> None:
    """The heads that differ most, which way, and how many differ for sure.

    `this`, `other`: the outputs that were compared, in this order.
    """
    grid = Grid("head", "statistic", "difference", "d", "q", keys=2)
    for row in found.table.slice(0, TOP_HEADS).to_pylist():
        numbers = [f"{row[key]:+.3g}" for key in ("difference", "effect_size")]
        head = f"{row['layer']}.{row['head']}"
        grid.add(head, row["statistic"], *numbers, f"{row['q']:.2g}")
    show(grid)
    if (more := found.table.num_rows - TOP_HEADS) > 0:
        show(f"… and {counted(more, 'more comparison')} with a smaller d; --to FILE writes all")
    show(
        f"head: layer.head; difference: {this} minus {other} within ranges of text length, "
        "averaged by their rows",
        compared_rows(found, this, other),
        *(f"note: {note}" for note in found.notes),
        f"{found.sure:,} of {found.table.num_rows:,} comparisons differ at a false discovery rate "
        f"of {FALSE_DISCOVERIES:.0%}",
    )


def compared_rows(found: Comparison, this: str, other: str) -> str:
    """How many rows of each output were compared, and which these are."""
    (a, b), (of_a, of_b) = found.compared, found.rows
    return (
        f"compared: {a:,} of {counted(of_a, 'row')} of {this}, {b:,} of {of_b:,} of {other}, in "
        f"ranges of length with {LEAST_ROWS} rows or more of each"
    )
