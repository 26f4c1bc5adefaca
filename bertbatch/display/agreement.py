"""What `bertbatch compare` prints."""

from typing import Any

from bertbatch.checks.compare import Agreement, Correctness
from bertbatch.display.evaluation import number
from bertbatch.display.facts import Facts
from bertbatch.display.grid import Grid
from bertbatch.display.lines import show
from bertbatch.wording import counted


def show_agreement(found: Agreement) -> None:
    """How far two outputs agree, which is right more often, and the rows that differ most."""
    facts = Facts()
    only = f"{found.only_a:,} only in A, {found.only_b:,} only in B"
    facts.add("rows", f"{found.rows:,} in both; {only}")
    facts.add("same answer", f"{number(found.agreement)} ({found.same:,} of {found.rows:,})")
    if found.task == "single_label":
        facts.add("Cohen's kappa", number(found.kappa))
    if found.scores_of:
        scores = found.scores
        differ = f"mean {number(scores.mean_absolute)}, largest {scores.largest:.4f}"
        facts.add("difference", f"of the {found.scores_of}: {differ}")
    if found.task == "regression":
        facts.add("Pearson", number(found.scores.pearson))
    if correct := found.correctness:
        _add_correctness(facts, correct)
    for note in found.notes:
        facts.add("note", note)
    facts.add("A", found.a)
    facts.add("B", found.b)
    show(facts)
    if found.task == "multi_label":
        show("", _by_label(found))
    if found.flips:
        show("", _flips(found))
        if (more := found.rows - found.same - len(found.flips)) > 0:
            show(f"… and {counted(more, 'more row')}; --limit shows more")


def _add_correctness(facts: Facts, correct: Correctness) -> None:
    rows = correct.rows
    for name, right, (low, high) in zip("AB", correct.right, correct.intervals, strict=True):
        share = number(right / rows) if rows else "–"
        facts.add(
            f"{name} is right",
            f"{share} ({right:,} of {rows:,} by '{correct.gold}'; 95 % interval {low:.4f} to "
            f"{high:.4f})",
        )
    facts.add(
        "McNemar's test",
        f"p = {correct.p:.3g}: A alone is right in {counted(correct.only_a, 'row')}, B alone in "
        f"{correct.only_b:,}",
    )


def _by_label(found: Agreement) -> Grid:
    figures = ("both", "only A", "only B", "kappa")
    grid = Grid("label", *figures, right=figures)
    for label, counts in zip(found.labels, found.by_label, strict=True):
        cells = (counts[1, 1], counts[1, 0], counts[0, 1])
        grid.add(label, *(f"{n:,}" for n in cells), number(found.kappas[label]))
    return grid


def _flips(found: Agreement) -> Grid:
    grid = Grid("source", "row", "A", "", "B", "", keys=2)
    for flip in found.flips:
        cells = [
            cell
            for answer, score in zip(flip.answers, flip.scores, strict=True)
            for cell in (answer or "no label", "" if score is None else f"{score:.4f}")
        ]
        grid.add(flip.source, str(flip.row), *cells)
    return grid


def agreement_record(found: Agreement) -> dict[str, Any]:
    """The whole comparison, for JSON."""
    names = ("a", "b", "task", "rows", "only_a", "only_b", "same", "agreement", "labels", "notes")
    record: dict[str, Any] = {name: getattr(found, name) for name in names}
    if found.scores_of:
        record["difference"] = {
            "of": found.scores_of,
            "mean": found.scores.mean_absolute,
            "largest": found.scores.largest,
        }
    if found.task == "single_label":
        record |= {"kappa": found.kappa, "confusion": found.confusion}
    if found.task == "multi_label":
        record |= {"kappas": found.kappas, "by_label": found.by_label}
    if found.task == "regression":
        record["pearson"] = found.scores.pearson
    else:
        record["flips"] = [vars(flip) for flip in found.flips]
    if correct := found.correctness:
        record["gold"] = {
            **vars(correct),
            "rows": correct.rows,
            "accuracy_intervals": correct.intervals,
            "mcnemar_p": correct.p,
        }
    return record
