"""How good the answers are, by a gold column."""

from typing import Any

import numpy as np

from bertbatch.checks.evaluate import Classification, LabelSets, Numbers, caveats
from bertbatch.checks.metrics import BINS, Calibration, Detection
from bertbatch.display.evaluation import number
from bertbatch.report.blocks import Block, Chart, Section, Table, Words, shown, whole
from bertbatch.report.charts import FAINT, MARK, drawing
from bertbatch.report.material import Material

LABELS = 100  # in a table
CONFUSED = 25  # labels in a confusion matrix


def judged(material: Material) -> Section | None:
    found = material.evaluation
    if found is None:
        return None
    blocks: list[Block] = [Words(f"{what.capitalize()}.") for what in caveats(found)]
    if isinstance(found, Numbers):
        blocks.append(_errors(found))
    if isinstance(found, Classification | LabelSets):
        low, high = found.interval
        name = "accuracy" if isinstance(found, Classification) else "all labels right"
        rows = [
            ("rows judged", whole(found.rows)),
            (name, f"{found.accuracy:.4f}"),
            ("95 % interval", f"{low:.4f} to {high:.4f}"),
            ("macro F1", number(found.macro_f1)),
        ]
        if isinstance(found, Classification) and found.calibration:
            rows.append(("calibration error", number(found.calibration.error)))
        if isinstance(found, LabelSets):
            rows.append(("micro F1", number(found.micro.f1)))
        blocks += [Table(f"By “{shown(found.gold)}”", ("", ""), rows, (1,)), _labels(found.found)]
    if isinstance(found, Classification):
        blocks += _confusion(found)
        if found.calibration and found.calibration.error is not None:
            blocks.append(_calibration(found.calibration))
    return Section("judged", "Accuracy", blocks)


def _errors(found: Numbers) -> Table:
    rows = [
        ("rows judged", whole(found.rows)),
        ("mean absolute error", number(found.pairs.mean_absolute)),
        ("root mean square error", number(found.pairs.root_mean_square)),
        ("Pearson", number(found.pairs.pearson)),
        ("Spearman", number(found.spearman)),
    ]
    if found.ranked < found.rows:
        rows.append(("rows behind Spearman, a sample", whole(found.ranked)))
    return Table(f"By “{shown(found.gold)}”", ("", ""), rows, (1,))


def _labels(found: list[Detection]) -> Table:
    ordered = sorted(found, key=lambda each: -each.support)[:LABELS]
    rows = [
        (
            shown(each.label),
            *(number(value) for value in (each.precision, each.recall, each.f1)),
            whole(each.support),
            whole(each.predicted),
        )
        for each in ordered
    ]
    head = ("label", "precision", "recall", "F1", "support", "predicted")
    return Table("Each label", head, rows, (1, 2, 3, 4, 5))


def _confusion(found: Classification) -> list[Block]:
    if len(found.labels) > CONFUSED:
        return [Words(f"The confusion matrix of {len(found.labels):,} labels is left out.")]
    names = [shown(label) for label in found.labels]
    columns = [*names, *(["no label"] if found.unlabelled else [])]
    rows = [
        (name, *(whole(count) for count in counts[: len(columns)]))
        for name, counts in zip(names, found.confusion.tolist(), strict=True)
    ]
    head = ("gold ↓ predicted →", *columns)
    numeric = tuple(range(1, len(head)))
    return [Table("Confusion matrix", head, rows, numeric)]


def _calibration(found: Calibration) -> Chart:
    there = found.rows > 0
    score = found.scores[there] / found.rows[there]
    right = found.right[there] / found.rows[there]

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1)
        axes.plot(score, right, color=MARK, marker="o", markersize=4)
        axes.set_xlabel("mean score")
        axes.set_ylabel("share that is right")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)

    rows = [
        (f"{m / BINS:.3f} to {(m + 1) / BINS:.3f}", whole(found.rows[m]), f"{s:.4f}", f"{r:.4f}")
        for m, s, r in zip(np.flatnonzero(there).tolist(), score, right, strict=True)
    ]
    head = ("scores", "rows", "mean score", "share right")
    caption = "Calibration: how often a label with such a score is right"
    table = Table("Calibration: table", head, rows, (1, 2, 3), folded=True)
    return Chart(caption, drawing(draw), table)
