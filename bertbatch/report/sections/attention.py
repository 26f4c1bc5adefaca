"""The attention statistics of the corpus, for every head."""

from typing import Any

import numpy as np

from bertbatch.attention.aggregates import ALL, COLUMN, LABEL, LENGTH
from bertbatch.attention.corpus import Corpus, read_corpus
from bertbatch.errors import JobError
from bertbatch.report.blocks import Block, Chart, Heatmap, Section, Table, Words, shown
from bertbatch.report.charts import INK, drawing, heatmap_colors, whole_numbers
from bertbatch.report.material import Material

CELLS = 150_000  # of all heatmaps together
PAIRS = (("mean_distance", "tokens"), ("to_sep", "share"), ("to_cls", "share"))
KINDS = {ALL: "all rows", LABEL: "label", LENGTH: "tokens", COLUMN: "column"}


def attention(material: Material) -> Section | None:
    if material.answers.contract.get("attention") is None:
        return None
    answers = material.answers
    try:
        corpus = read_corpus(answers.output, answers.model or None)
    except JobError as error:
        return Section("attention", "Attention", [Words(f"Not shown: {error}")])
    blocks: list[Block] = [
        Words(
            "Each cell is a head's mean over rows. What the statistics mean: docs/attention.md. "
            "Attention describes what a head did; it does not explain the answer."
        ),
        *_heatmap(corpus),
        *_scatters(corpus),
        _strongest(corpus),
    ]
    return Section("attention", "Attention", blocks)


def _heatmap(corpus: Corpus) -> list[Block]:
    names = [name for name in corpus.tops if (ALL, "", name) in corpus.keys]
    groups = [(kind, value) for kind in KINDS for value in corpus.groups(kind)]
    width = corpus.layers * corpus.heads
    most = max(CELLS // (width * max(len(names), 1)), 1)
    values = {name: [_means(corpus, (*group, name)) for group in groups[:most]] for name in names}
    shown_groups = [_group(corpus, *group) for group in groups[:most]]
    data = heatmap(corpus.layers, corpus.heads, shown_groups, values)
    blocks: list[Block] = [Heatmap("Mean of each head", data)]
    if len(groups) > most:
        blocks.append(Words(f"The first {most} of {len(groups):,} groups can be chosen."))
    return blocks


def heatmap(
    layers: int,
    heads: int,
    groups: list[str],
    values: dict[str, list[list[float] | None]],
    around_zero: bool = False,
) -> dict[str, Any]:
    """What the page's script reads: values [statistic][group][layers · heads].

    `around_zero`: values have a sign, and the colors reach as far below zero as above.
    """
    return {
        "layers": layers,
        "heads": heads,
        "groups": groups,
        "statistics": list(values),
        "values": values,
        "colors": heatmap_colors(around_zero),
        "aroundZero": around_zero,
    }


def rounded(values: np.ndarray) -> list[float]:
    """Numbers with four digits, which take little room."""
    return [float(f"{value:.4g}") if np.isfinite(value) else 0.0 for value in values.tolist()]


def _means(corpus: Corpus, key: tuple[str, str, str]) -> list[float] | None:
    return rounded(corpus.aggregate(key)["mean"]) if key in corpus.keys else None


def _group(corpus: Corpus, kind: str, value: str) -> str:
    if kind == ALL:
        return KINDS[kind]
    name = corpus.called(kind) if kind == COLUMN else KINDS[kind]
    return f"{shown(name, 60)}: {shown(value, 60)}"


def _scatters(corpus: Corpus) -> list[Block]:
    """Heads by their entropy and where they attend to, as Clark et al. 2019 draw them.

    https://arxiv.org/abs/1906.04341, figures 2 and 4.
    """
    if (ALL, "", "entropy") not in corpus.keys:
        return []
    entropy = corpus.aggregate((ALL, "", "entropy"))["mean"]
    blocks: list[Block] = []
    for name, unit in PAIRS:
        if (ALL, "", name) in corpus.keys:
            other = corpus.aggregate((ALL, "", name))["mean"]
            blocks.append(_scatter(corpus, entropy, other, name, unit))
    return blocks


def _scatter(corpus: Corpus, entropy: np.ndarray, other: np.ndarray, name: str, unit: str) -> Chart:
    layer = np.arange(len(entropy)) // corpus.heads + 1

    def draw(axes: Any) -> None:
        last = max(corpus.layers, 2)
        look = {"s": 18, "vmin": 1, "vmax": last, "edgecolors": INK, "linewidths": 0.4}
        points = axes.scatter(other, entropy, c=layer, **look)
        axes.set_xlabel(f"{name}, {unit}")
        axes.set_ylabel("entropy, nats")
        bar = axes.figure.colorbar(points, ax=axes, label="layer", ticks=whole_numbers())
        bar.outline.set_visible(False)

    rows = [
        (f"{place // corpus.heads + 1}.{place % corpus.heads + 1}", f"{x:.4g}", f"{y:.4g}")
        for place, (x, y) in enumerate(zip(other, entropy, strict=True))
    ]
    table = Table(f"{name}: table", ("layer.head", name, "entropy"), rows, (1, 2), folded=True)
    return Chart(f"Heads by entropy and {name}", drawing(draw), table)


def _strongest(corpus: Corpus) -> Table:
    rows = []
    for name in corpus.tops:
        if (ALL, "", name) not in corpus.keys:
            continue
        mean = corpus.aggregate((ALL, "", name))["mean"]
        least, most = int(mean.argmin()), int(mean.argmax())
        rows.append(
            (
                name,
                *(
                    f"{mean[at]:.4g} in {at // corpus.heads + 1}.{at % corpus.heads + 1}"
                    for at in (least, most)
                ),
                f"{mean.mean():.4g}",
            )
        )
    head = ("statistic", "smallest, in layer.head", "largest, in layer.head", "mean of heads")
    return Table("Heads with the smallest and largest means", head, rows, (1, 2, 3), wide=True)
