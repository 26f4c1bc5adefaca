"""A picture of one attention statistic: layers × heads, as PNG or SVG."""

import io
from pathlib import Path

import numpy as np

from bertbatch.attention.aggregates import ALL
from bertbatch.attention.corpus import KINDS, Corpus
from bertbatch.display.files import check_ending
from bertbatch.errors import JobError
from bertbatch.report.blocks import shown
from bertbatch.report.charts import check_installed, plotting
from bertbatch.report.page import write_file
from bertbatch.wording import shorten

ENDINGS = (".png", ".svg")
MOST_NUMBERS = 16  # heads of a layer up to which cells have their numbers
DOTS = 150  # per inch, of a PNG


def plot_heads(corpus: Corpus, statistic: str, group: str, value: str, to: Path) -> None:
    """Draws the mean of every head over the rows of a group into a file.

    `group`: "all", "label", "length", "column" or the name of the grouping column, with the `value`
    that its rows have. Raises JobError for a statistic or group that there is not, another ending
    of the file's name, or without matplotlib.
    """
    check_installed()
    check_ending("--to", to, "a picture", ENDINGS)
    kind = corpus.kind(group)
    cells = _means(corpus, statistic, kind, value)
    of = "all rows" if kind == ALL else f"{shown(corpus.called(kind), 40)} {shown(value, 40)}"
    numbers = corpus.heads <= MOST_NUMBERS
    size = (max(0.55 * corpus.heads, 3) + 2, 0.35 * corpus.layers + 1.6)
    with plotting() as plt:
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        image = axes.imshow(cells, aspect="auto")
        axes.set_xticks(np.arange(corpus.heads), np.arange(corpus.heads) + 1)
        axes.set_yticks(np.arange(corpus.layers), np.arange(corpus.layers) + 1)
        axes.set(xlabel="head", ylabel="layer", title=f"{statistic}, {of}")
        half = (cells.min() + cells.max()) / 2
        for (layer, head), cell in np.ndenumerate(cells) if numbers else ():
            color = "black" if cell > half else "white"
            axes.text(head, layer, f"{cell:.2g}", ha="center", va="center", color=color, size=8)
        figure.colorbar(image, ax=axes)
        data = io.BytesIO()
        form = to.suffix.lower().removeprefix(".")
        metadata = {"Date": None} if form == "svg" else {}
        figure.savefig(data, format=form, dpi=DOTS, metadata=metadata)
        plt.close(figure)
    write_file(to, data.getvalue())


def _means(corpus: Corpus, statistic: str, group: str, value: str) -> np.ndarray:
    """The mean of each head, float64 [layers, heads]."""
    if statistic not in corpus.tops:
        raise JobError(f"--plot {statistic}: the output has {', '.join(corpus.tops)}")
    if group not in KINDS:
        raise JobError(f"--group {group}: it is one of {corpus.kinds}")
    key = (group, value, statistic)
    if key not in corpus.keys:
        there = [repr(name) for name in corpus.groups(group)]
        if group == ALL:
            raise JobError(f"--value {value}: all rows have no value; give --group as well")
        name = corpus.called(group)
        known = f"the group {name} has the values {shorten(there)}" if there else "there is none"
        raise JobError(f"--group {name} --value {value!r}: {known}")
    mean: np.ndarray = corpus.aggregate(key)["mean"]
    return mean.reshape(corpus.layers, corpus.heads)
