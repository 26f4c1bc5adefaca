"""Rows to look at: the least certain, the most typical, the extreme ones."""

from collections.abc import Sequence
from typing import Any

from bertbatch.report.blocks import Block, Section, Table, Words, shown
from bertbatch.report.material import Material

CAPTIONS = {
    "least certain": "The least certain rows",
    "longest": "The longest texts",
    "most unknown tokens": "The texts with the largest share of unknown tokens",
    "largest": "The largest values",
    "smallest": "The smallest values",
}
HEADS = {"n_tokens": "tokens", "unk_share": "unknown"}
NUMERIC = ("row", "score", "value", "n_tokens", "unk_share")


def rows(material: Material) -> Section | None:
    found = material.scan
    there = {name: top.rows for name, top in found.tops.items() if top.rows}
    tables = [_table(CAPTIONS[name], there[name]) for name in CAPTIONS if name in there]
    typical = [row for top in found.typical.values() for row in top.rows]
    if typical:
        tables.insert(1, _table("The most typical rows of each label", typical))
    if not tables:
        return None
    blocks: list[Block] = list(tables)
    if not any("text" in row for top in found.tops.values() for row in top.rows):
        blocks.insert(0, Words("Texts are shown if the text column is carried."))
    return Section("rows", "Rows to look at", blocks)


def _table(caption: str, found: Sequence[dict[str, Any]]) -> Table:
    names = list(found[0])
    lines = [[_cell(row[name]) for name in names] for row in found]
    numeric = [i for i, name in enumerate(names) if name in NUMERIC]
    head = [HEADS.get(name, name) for name in names]
    return Table(caption, head, lines, numeric, folded=True, wide=True)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return shown(", ".join(map(str, value)))
    return f"{value:.4f}" if isinstance(value, float) else shown(value)
