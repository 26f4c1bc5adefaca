"""The rows that could not be scored, by reason."""

from collections import Counter
from typing import Any

import pyarrow as pa

from bertbatch.report.blocks import Block, Section, Table, Words, shown, whole
from bertbatch.report.material import Material

REASONS = 50
EXAMPLES = 3  # of each reason
SHORT = 120  # characters of a reason by which rows are counted


def quarantine(material: Material) -> Section | None:
    files = material.scan.side_files
    if not files:
        return None
    counts: Counter[str] = Counter()
    examples: dict[str, list[dict[str, Any]]] = {}
    unread: list[str] = []
    again = _scored_again(material)
    for part, path in files.items():
        try:
            table = material.output.side(path)
        except (OSError, pa.ArrowException) as error:
            unread.append(f"{part}: {error}")
            continue
        for row in table.select(["source", "row", "reason"]).to_pylist():
            if (part, row["source"], row["row"]) in again:
                continue
            reason = shown(row["reason"], SHORT)
            counts[reason] += 1
            kept = examples.setdefault(reason, [])
            if len(kept) < EXAMPLES:
                kept.append(row)
    rows = [(reason, whole(count)) for reason, count in counts.most_common(REASONS)]
    blocks: list[Block] = []
    if rows:
        blocks.append(Table("Reasons", ("reason", "rows"), rows, (1,)))
        shown_rows = [
            (reason, shown(row["source"]), str(row["row"]))
            for reason, _ in rows
            for row in examples[reason]
        ]
        blocks.append(
            Table(
                f"Examples, up to {EXAMPLES} of each",
                ("reason", "source", "row"),
                shown_rows,
                (2,),
                folded=True,
                wide=True,
            )
        )
    if unread:
        blocks.append(Words(f"{len(unread):,} files cannot be read, such as {shown(unread[0])}"))
    if not blocks:
        return None
    return Section("quarantine", "Quarantine", blocks)


def _scored_again(material: Material) -> set[tuple[str, str, int]]:
    """Rows in quarantine that were taken up again since, by the part that had them."""
    if material.there is None:
        return set()
    parts = {unit.id: unit.part for unit in material.there.units}
    return {
        (parts[unit.retry.unit], source, row)
        for unit in material.there.units
        if unit.retry and unit.retry.unit in parts
        for source, row in unit.retry.rows
    }
