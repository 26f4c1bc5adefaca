"""How answers differ between the values of carried columns, such as topics or days."""

from datetime import date
from typing import Any

from bertbatch.report.blocks import Block, Chart, Section, Table, share, shown, whole
from bertbatch.report.charts import SERIES, as_days, drawing
from bertbatch.report.grouping import NONE, Groups
from bertbatch.report.material import Material

LABELS = 5  # shown of each column, the most frequent
LARGEST = 10  # columns shown


def groups(material: Material) -> Section | None:
    found = [g for g in material.scan.groups if not g.too_many and len(g.rows) > 1]
    names = [label for label, _ in material.scan.labels.most_common(LABELS)]
    blocks: list[Block] = []
    for each in found[:LARGEST]:
        if each.by_day and (chart := _by_day(each, names)):
            blocks.append(chart)
        else:
            blocks.append(_table(each, names))
    return Section("groups", "By carried columns", blocks) if blocks else None


def _table(each: Groups, names: list[str]) -> Table:
    head = [shown(each.column), "rows", *(shown(name, 40) for name in names)]
    if each.sums:
        head.append("mean value")
    lines = []
    for value in each.values:
        rows = each.rows[value]
        line = [shown(value), whole(rows)]
        line += [share(each.labels[(value, name)], rows) for name in names]
        if each.sums:
            line.append(f"{each.sums.get(value, 0.0) / rows:.4g}")
        lines.append(line)
    caption = (
        f"Shares of labels by “{shown(each.column)}”" if names else f"By “{shown(each.column)}”"
    )
    return Table(caption, head, lines, range(1, len(head)), folded=each.by_day)


def _by_day(each: Groups, names: list[str]) -> Chart | None:
    days = [value for value in each.values if value != NONE]
    try:
        dates = [date.fromisoformat(day) for day in days]
    except ValueError:
        return None

    def draw(axes: Any) -> None:
        lines = names if names else [""]
        for name, (color, style) in zip(lines, SERIES, strict=False):
            if names:
                y = [each.labels[(day, name)] / each.rows[day] for day in days]
            elif each.sums:
                y = [each.sums.get(day, 0.0) / each.rows[day] for day in days]
            else:
                y = [float(each.rows[day]) for day in days]
            axes.plot(dates, y, color=color, linestyle=style, label=shown(name, 24))
        axes.set_ylabel("share of rows" if names else "mean value" if each.sums else "rows")
        axes.set_ylim(bottom=None if each.sums else 0)
        if len(names) > 1:
            axes.legend(fontsize=8)
        as_days(axes)

    caption = (
        f"Labels by day in “{shown(each.column)}”" if names else f"By day in “{shown(each.column)}”"
    )
    return Chart(caption, drawing(draw), _table(each, names))
