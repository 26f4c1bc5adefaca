"""The answers: how often there is which, how sure the model is."""

import numpy as np

from bertbatch.report.blocks import Block, Chart, Section, Table, Words, share, shown, whole
from bertbatch.report.charts import bars, histogram
from bertbatch.report.material import Material
from bertbatch.report.scan import SCORES, Scan

LABELS = 200  # in a table
SCORED = 6  # labels whose scores are drawn


def labels(material: Material) -> Section | None:
    found = material.scan
    if not found.rows:
        return None
    blocks: list[Block] = []
    if found.labels:
        blocks += _labels(found)
    blocks += _scores(found)
    if found.numbers:
        blocks += _numbers(found)
    return Section("labels", "Answers", blocks) if blocks else None


def _labels(found: Scan) -> list[Block]:
    common = found.labels.most_common(LABELS)
    names, counts = [name for name, _ in common], [count for _, count in common]
    rows = [(shown(name), whole(n), share(n, found.rows)) for name, n in common]
    more = len(found.labels) - len(common)
    caption = "Labels" + (f", the {LABELS} most frequent of {len(found.labels):,}" if more else "")
    chart = bars("Rows by label", names, counts, "rows")
    return [
        Chart(
            chart.caption, chart.svg, Table(caption, ("label", "rows", "share"), rows, (1, 2), True)
        )
    ]


def _scores(found: Scan) -> list[Block]:
    if not found.scores:
        return []
    if found.odd_scores:
        return [
            Words(f"{found.odd_scores:,} scores are not between 0 and 1, so they are not drawn.")
        ]
    edges = np.linspace(0, 1, SCORES + 1)
    blocks: list[Block] = []
    for label, _ in found.labels.most_common(SCORED):
        if label in found.scores:
            caption = f"Scores of rows that are “{shown(label, 40)}”"
            blocks.append(histogram(caption, edges, found.scores[label], "score"))
    return blocks


def _numbers(found: Scan) -> list[Block]:
    values = np.concatenate(found.numbers)
    values = values[np.isfinite(values)]
    if not len(values):
        return []
    counts, edges = np.histogram(values, SCORES)
    blocks: list[Block] = [histogram("Values", edges, counts, "value")]
    if len(values) < found.rows:
        blocks.append(Words(f"Values are those of a sample of {len(values):,} rows."))
    quantiles = np.quantile(values, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
    names = ("smallest", "5 %", "25 %", "median", "75 %", "95 %", "largest")
    rows = [(name, f"{q:.4g}") for name, q in zip(names, quantiles, strict=True)]
    rows.append(("mean", f"{values.mean():.4g}"))
    return [*blocks, Table("Quantiles of the values", ("", "value"), rows, (1,))]
