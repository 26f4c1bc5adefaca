"""How the output differs from another one over the same rows."""

import numpy as np
import pyarrow as pa

from bertbatch.attention.comparison import FALSE_DISCOVERIES, compare_outputs
from bertbatch.checks.compare import Agreement
from bertbatch.display.attention_tables import compared_rows
from bertbatch.display.evaluation import number
from bertbatch.errors import JobError
from bertbatch.report.blocks import Block, Heatmap, Section, Table, Words, share, shown, whole
from bertbatch.report.material import Material
from bertbatch.report.sections.attention import heatmap, rounded

LABELS = 25  # of a table of both outputs' labels
HEADS = 20
SIGNS = (
    "White is no difference. Orange is more in A, purple more in B, as far as the largest d of the "
    "statistic either way."
)


def comparison(material: Material) -> Section | None:
    if material.other is None:
        return None
    blocks: list[Block] = []
    if material.agreement:
        blocks += _agreement(material.agreement)
    if material.not_compared:
        blocks.append(Words(f"The answers are not compared: {material.not_compared}"))
    blocks += _attention(material)
    title = f"Compared with {shown(material.other.path, 80)}"
    return Section("comparison", title, blocks)


def _agreement(found: Agreement) -> list[Block]:
    rows = [
        ("A, this output", shown(found.a)),
        ("B", shown(found.b)),
        ("rows in both", whole(found.rows)),
        ("only in A", whole(found.only_a)),
        ("only in B", whole(found.only_b)),
        ("same answer", f"{whole(found.same)} ({share(found.same, found.rows)})"),
    ]
    if found.task == "single_label":
        rows.append(("Cohen's kappa", number(found.kappa)))
    if found.scores_of:
        rows.append(
            (f"mean difference of the {found.scores_of}", number(found.scores.mean_absolute))
        )
        rows.append(("largest difference", f"{found.scores.largest:.4f}"))
    if correct := found.correctness:
        for name, right, (low, high) in zip("AB", correct.right, correct.intervals, strict=True):
            text = f"{share(right, correct.rows)} (95 % interval {low:.4f} to {high:.4f})"
            rows.append((f"{name} is right", text))
        rows.append(("McNemar's exact test", f"p = {correct.p:.3g}"))
    blocks: list[Block] = [Words(f"{shown(note)}.") for note in found.notes]
    blocks.append(Table("Agreement", ("", ""), rows, wide=True))
    if found.task == "single_label" and len(found.labels) <= LABELS:
        blocks.append(_labels(found))
    if found.flips:
        lines = [
            (
                shown(flip.source),
                str(flip.row),
                *(
                    f"{shown(answer) or 'no label'}{'' if score is None else f' {score:.4f}'}"
                    for answer, score in zip(flip.answers, flip.scores, strict=True)
                ),
            )
            for flip in found.flips
        ]
        caption = "Rows with different answers, the most certain first"
        blocks.append(Table(caption, ("source", "row", "A", "B"), lines, (1,), wide=True))
    return blocks


def _labels(found: Agreement) -> Table:
    used = found.confusion.sum() and found.confusion[-1].sum() + found.confusion[:, -1].sum()
    names = [*map(shown, found.labels), *(["no label"] if used else [])]
    rows = [
        (name, *(whole(count) for count in counts[: len(names)]))
        for name, counts in zip(names, found.confusion.tolist(), strict=False)
    ]
    return Table("Labels", ("A ↓ B →", *names), rows, range(1, len(names) + 1))


def _attention(material: Material) -> list[Block]:
    answers, other = material.answers, material.other
    assert other
    if answers.contract.get("attention") is None:
        return []
    if other.existing_contract().get("attention") is None:
        return []
    try:
        found = compare_outputs(answers.output, other, True, answers.model or None)
    except JobError as error:
        return [Words(f"Attention is not compared: {error}")]
    table = found.table
    rows = [
        (
            f"{row['layer']}.{row['head']}",
            row["statistic"],
            f"{row['difference']:+.3g}",
            f"{row['effect_size']:+.3g}",
            f"{row['q']:.2g}",
            whole(row["rows"]),
            whole(row["rows_other"]),
        )
        for row in table.slice(0, HEADS).to_pylist()
    ]
    head = ("layer.head", "statistic", "difference", "d", "q", "rows of A", "rows of B")
    return [
        Words(
            f"{found.sure:,} of {table.num_rows:,} heads and statistics differ at a false "
            f"discovery rate of {FALSE_DISCOVERIES:.0%}. d is A minus B within ranges of text "
            "length, in standard "
            "deviations (Cohen's); q is p, adjusted for the number of comparisons."
        ),
        Words("; ".join((compared_rows(found, "A", "B"), *found.notes)) + "."),
        Heatmap("Differences in attention, d", _effects(table), SIGNS),
        Table("The heads that differ most", head, rows, range(2, 7), folded=True),
    ]


def _effects(table: pa.Table) -> dict[str, object]:
    layers, heads = (max(table[name].to_pylist()) for name in ("layer", "head"))
    place = (table["layer"].to_numpy() - 1) * heads + table["head"].to_numpy() - 1
    statistics, effects = np.array(table["statistic"].to_pylist()), table["effect_size"].to_numpy()
    values: dict[str, list[list[float] | None]] = {}
    for name in sorted(set(statistics.tolist())):
        flat = np.zeros(layers * heads)
        flat[place[statistics == name]] = effects[statistics == name]
        values[name] = [rounded(flat)]
    (rows, *_), (others, *_) = (table[name].to_pylist() for name in ("rows", "rows_other"))
    group = f"{whole(rows)} of A and {whole(others)} of B"
    return heatmap(layers, heads, [group], values, around_zero=True)
