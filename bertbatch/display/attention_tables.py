"""The attention statistics of a corpus, a comparison or a text, as tables."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bertbatch.attention.aggregates import ALL
from bertbatch.attention.comparison import FALSE_DISCOVERIES
from bertbatch.attention.corpus import Corpus
from bertbatch.errors import JobError

if TYPE_CHECKING:  # it imports torch, and tables of a corpus need none
    from bertbatch.attention.inspect import Inspection

TOP_HEADS = 20  # shown of a comparison


def show_corpus(corpus: Corpus) -> None:
    """The mean of every statistic in each layer over all rows, and its strongest head."""
    layers = [str(layer + 1) for layer in range(corpus.layers)]
    table = Table("layer", *layers, "most in", box=None, pad_edge=False)
    rows = 0
    for name in corpus.tops:
        if (ALL, "", name) not in corpus.keys:
            continue
        cell = corpus.aggregate((ALL, "", name))
        mean = cell["mean"].reshape(corpus.layers, corpus.heads)
        layer, head = np.unravel_index(mean.argmax(), mean.shape)
        table.add_row(name, *(f"{x:.3g}" for x in mean.mean(1)), f"{layer + 1}.{head + 1}")
        rows = max(rows, int(cell["rows"]))
    console = Console()
    wide = Console(width=max(console.width, 32 + 9 * corpus.layers))
    wide.print(table, highlight=False)
    console.print(
        f"means of {corpus.heads} heads over {rows:,} rows; 'most in': the layer.head of the "
        "largest mean",
        highlight=False,
        soft_wrap=True,
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
    console = Console()
    for name, value in inspection.answer.items():
        console.print(f"{name}: {value}", highlight=False, markup=False)
    if inspection.warning:
        console.print(
            f"warning: {inspection.warning}", highlight=False, markup=False, soft_wrap=True
        )
    if not strongest:
        console.print("no word to look at: there are only special tokens", highlight=False)
    for at, of in chosen:
        weights = inspection.weights[at, of, query]
        console.print(
            f"\nlayer {at + 1}, head {of + 1}, from {inspection.tokens[query]}:",
            highlight=False,
            markup=False,
        )
        shaded = Text()
        for word, weight in zip(inspection.tokens, weights / weights.max(), strict=True):
            shaded.append(word, style=_shade(float(weight)))
            shaded.append(" ")
        console.print(shaded)
        best = np.argsort(-weights, kind="stable")[:5]
        numbers = ", ".join(f"{inspection.tokens[i]} {weights[i]:.2f}" for i in best)
        console.print(f"  {numbers}", highlight=False, markup=False)
    first = ((layer or 1) - 1, (head or 1) - 1)
    return query, chosen[0] if chosen else first


def _shade(weight: float) -> str:
    """A background from white to dark orange, with letters that can be read on it."""
    green, blue = int(255 - 115 * weight), int(255 - 255 * weight)
    return f"black on rgb(255,{green},{blue})"


def show_comparison(table: pa.Table) -> None:
    """The heads that differ most, and how many differ for sure."""
    sure = int(pc.sum(pc.less_equal(table["q"], FALSE_DISCOVERIES)).as_py() or 0)
    shown = Table("layer", "head", "statistic", "difference", "d", "q", box=None, pad_edge=False)
    for row in table.slice(0, TOP_HEADS).to_pylist():
        numbers = [f"{row[key]:+.3g}" for key in ("difference", "effect_size")]
        shown.add_row(
            str(row["layer"]), str(row["head"]), row["statistic"], *numbers, f"{row['q']:.2g}"
        )
    console = Console()
    console.print(shown, highlight=False, soft_wrap=True)
    console.print(
        f"{sure:,} of {table.num_rows:,} comparisons differ at a false discovery rate of "
        f"{FALSE_DISCOVERIES:.0%}",
        highlight=False,
    )


def check_outside(path: Path, outputs: Sequence[str]) -> None:
    """Raises JobError if a table would be written among an output's parts."""
    if "\0" in str(path):
        raise JobError(f"--to {str(path)!r}: a path cannot have a NUL in it")
    for output in outputs:
        if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(output)):
            raise JobError(f"--to {path} lies inside {output}, among its parts; name another place")


def write_table(table: pa.Table, path: Path) -> None:
    """Raises JobError if the file cannot be written."""
    try:
        with open(path, "wb") as file:  # pyarrow would take a name with a colon for a URL
            pq.write_table(table, file, compression="zstd")
    except OSError as error:
        raise JobError(f"--to {path}: cannot be written: {error.strerror or error}") from error
    Console().print(f"{table.num_rows:,} rows written to {path}", highlight=False, markup=False)
