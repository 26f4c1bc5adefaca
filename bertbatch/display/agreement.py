"""What `bertbatch compare` prints."""

from typing import Any

from rich.table import Table
from rich.text import Text

from bertbatch.checks.compare import Agreement, Correctness
from bertbatch.display.evaluation import number
from bertbatch.display.facts import Facts
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
    console = facts.show()
    if found.task == "multi_label":
        console.print()
        console.print(_by_label(found), highlight=False)
    if found.flips:
        console.print()
        console.print(_flips(found), highlight=False, soft_wrap=True)
        if (more := found.rows - found.same - len(found.flips)) > 0:
            console.print(f"… and {counted(more, 'more row')}; --limit shows more", highlight=False)


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


def _by_label(found: Agreement) -> Table:
    table = Table("label", box=None, pad_edge=False)
    for name in ("both", "only A", "only B", "kappa"):
        table.add_column(name, justify="right")
    for label, counts in zip(found.labels, found.by_label, strict=True):
        cells = (counts[1, 1], counts[1, 0], counts[0, 1])
        table.add_row(Text(label), *(f"{n:,}" for n in cells), number(found.kappas[label]))
    return table


def _flips(found: Agreement) -> Table:
    table = Table("source", "row", "A", "", "B", "", box=None, pad_edge=False)
    for flip in found.flips:
        cells = [
            cell
            for answer, score in zip(flip.answers, flip.scores, strict=True)
            for cell in (answer or "no label", "" if score is None else f"{score:.4f}")
        ]
        table.add_row(*map(Text, (flip.source, str(flip.row), *cells)))
    return table


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
