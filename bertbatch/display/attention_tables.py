"""The attention statistics of a corpus, a comparison or a text, as tables."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.padding import Padding
from rich.text import Text

from bertbatch.attention.aggregates import ALL
from bertbatch.attention.comparison import FALSE_DISCOVERIES
from bertbatch.attention.corpus import Corpus
from bertbatch.display.answers import spelled
from bertbatch.display.grid import Grid
from bertbatch.display.lines import show
from bertbatch.errors import JobError
from bertbatch.wording import counted

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
        numbers = ", ".join(f"{inspection.tokens[i]} {weights[i]:.2f}" for i in best)
        heading = f"layer {at + 1}, head {of + 1}, from {inspection.tokens[query]}:"
        show("", heading, shaded, Padding(Text(numbers), (0, 0, 0, 2)))
    first = ((layer or 1) - 1, (head or 1) - 1)
    return query, chosen[0] if chosen else first


def _shade(weight: float) -> str:
    """A background from white to dark orange, with letters that can be read on it."""
    green, blue = int(255 - 115 * weight), int(255 - 255 * weight)
    return f"black on rgb(255,{green},{blue})"


def show_comparison(table: pa.Table, this: str, other: str) -> None:
    """The heads that differ most, which way, and how many differ for sure.

    `this`, `other`: the outputs that were compared, in this order.
    """
    sure = int(pc.sum(pc.less_equal(table["q"], FALSE_DISCOVERIES)).as_py() or 0)
    grid = Grid("head", "statistic", "difference", "d", "q", keys=2)
    for row in table.slice(0, TOP_HEADS).to_pylist():
        numbers = [f"{row[key]:+.3g}" for key in ("difference", "effect_size")]
        head = f"{row['layer']}.{row['head']}"
        grid.add(head, row["statistic"], *numbers, f"{row['q']:.2g}")
    show(grid)
    if (more := table.num_rows - TOP_HEADS) > 0:
        show(f"… and {counted(more, 'more comparison')} with a smaller d; --to FILE writes all")
    show(
        f"head: layer.head; difference: the mean in {this} minus the mean in {other}",
        f"{sure:,} of {table.num_rows:,} comparisons differ at a false discovery rate of "
        f"{FALSE_DISCOVERIES:.0%}",
    )
