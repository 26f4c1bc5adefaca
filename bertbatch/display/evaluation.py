"""What `bertbatch evaluate` prints."""

from typing import Any

from bertbatch.checks.evaluate import (
    Classification,
    Evaluation,
    LabelSets,
    Numbers,
    caveats,
)
from bertbatch.checks.metrics import Detection
from bertbatch.display.facts import Facts
from bertbatch.display.grid import Grid
from bertbatch.display.lines import show
from bertbatch.wording import counted

LABELS = 40  # shown, the most frequent first
CONFUSED = 12  # labels up to which the confusion matrix is shown


def show_evaluation(found: Evaluation) -> None:
    """The figures, a table of the labels, the confusion matrix of a few labels."""
    facts = Facts()
    facts.add("judged", f"{counted(found.rows, 'row')} by '{found.gold}'")
    for name, text in _figures(found):
        facts.add(name, text)
    for what in caveats(found):
        facts.add("note", what)
    facts.add("output", found.output)
    show(facts)
    if isinstance(found, Classification | LabelSets):
        show("", _labels(found.found))
        if (more := len(found.found) - LABELS) > 0:
            show(f"… and {counted(more, 'more label')}")
    if isinstance(found, Classification) and len(found.labels) <= CONFUSED:
        show("", _confusion(found))


def _figures(found: Evaluation) -> list[tuple[str, str]]:
    if isinstance(found, Numbers):
        pairs = found.pairs
        sample = "" if found.ranked == found.rows else f" (of a sample of {found.ranked:,} rows)"
        return [
            ("mean absolute error", number(pairs.mean_absolute)),
            ("root mean square error", number(pairs.root_mean_square)),
            ("Pearson", number(pairs.pearson)),
            ("Spearman", number(found.spearman) + sample),
        ]
    assert isinstance(found, Classification | LabelSets)
    low, high = found.interval
    name = "accuracy" if isinstance(found, Classification) else "all labels right"
    figures = [
        (
            name,
            f"{found.accuracy:.4f} ({found.right:,} of {found.rows:,}; 95 % interval {low:.4f} to "
            f"{high:.4f})",
        ),
        ("macro F1", number(found.macro_f1)),
    ]
    if isinstance(found, LabelSets):
        return [*figures, ("micro F1", number(found.micro.f1))]
    if found.unlabelled:
        figures.append(("no label", f"{counted(found.unlabelled, 'row')}, which count as wrong"))
    error = found.calibration.error if found.calibration else None
    missing = "–: the scores are no probabilities" if found.calibration else "–: no column 'score'"
    figures.append(("calibration error", missing if error is None else number(error)))
    return figures


def _labels(found: list[Detection]) -> Grid:
    figures = ("precision", "recall", "F1", "support", "predicted")
    grid = Grid("label", *figures, right=figures)
    for each in sorted(found, key=_support)[:LABELS]:
        shares = (number(share) for share in (each.precision, each.recall, each.f1))
        grid.add(each.label, *shares, f"{each.support:,}", f"{each.predicted:,}")
    return grid


def _confusion(found: Classification) -> Grid:
    """In the order of the table of labels."""
    order = sorted(range(len(found.labels)), key=lambda i: _support(found.found[i]))
    columns = [*order, *([len(order)] if found.unlabelled else [])]
    names = [*found.labels, "no label"]
    predicted = [names[i] for i in columns]
    grid = Grid("gold \\ predicted", *predicted, right=predicted)
    for i in order:
        grid.add(names[i], *(f"{found.confusion[i][j]:,}" for j in columns))
    return grid


def _support(each: Detection) -> int:
    return -each.support


def number(value: float | None) -> str:
    """A figure with four digits, or a dash where it is not defined."""
    return "–" if value is None else f"{value:.4f}"


def evaluation_record(found: Evaluation) -> dict[str, Any]:
    """The whole judgement, for JSON."""
    names = ("output", "model", "task", "gold", "matched_by")
    counts = ("rows", "without_gold", "quarantined")
    record: dict[str, Any] = {name: getattr(found, name) for name in (*names, *counts)}
    record["complete"] = not found.lack
    if isinstance(found, Numbers):
        pairs = found.pairs
        return record | {
            "mean_absolute_error": pairs.mean_absolute,
            "root_mean_square_error": pairs.root_mean_square,
            "pearson": pairs.pearson,
            "spearman": found.spearman,
            "spearman_rows": found.ranked,
        }
    assert isinstance(found, Classification | LabelSets)
    record |= {
        "accuracy": found.accuracy,
        "accuracy_interval": found.interval,
        "right": found.right,
        "macro_f1": found.macro_f1,
        "labels": {each.label: _detection(each) for each in found.found},
    }
    if isinstance(found, LabelSets):
        return record | {"micro": _detection(found.micro)}
    calibration = found.calibration
    return record | {
        "unlabelled": found.unlabelled,
        "confusion": found.confusion,
        "calibration_error": calibration.error if calibration else None,
        "calibration_bins": calibration
        and {"rows": calibration.rows, "right": calibration.right, "scores": calibration.scores},
    }


def _detection(each: Detection) -> dict[str, Any]:
    return {
        name: getattr(each, name)
        for name in ("precision", "recall", "f1", "support", "predicted", "hits")
    }
