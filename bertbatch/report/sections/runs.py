"""What the runs did: when, how fast, with what padding."""

from datetime import datetime
from typing import Any

from bertbatch.report.blocks import Block, Chart, Section, Table, Words, share, shown, whole
from bertbatch.report.charts import MARK, as_days, drawing
from bertbatch.report.material import RUNS, Material


def runs(material: Material) -> Section | None:
    records = material.runs
    if not records:
        return None
    blocks: list[Block] = []
    scored = [record for record in records if record["this_run"]["rows_scored"]]
    if len(scored) > 1:
        blocks.append(_rates(scored))
    head = ("began", "exit", "rows", "rows/s", "padding", "quarantined", "engine", "alarms")
    table = Table("Runs", head, [_row(record) for record in records[::-1]], (1, 2, 3, 4, 5))
    blocks.append(table)
    if len(records) == RUNS:
        blocks.append(Words(f"The last {RUNS} runs are shown."))
    status = material.status
    if status and status.rows_per_second is not None:
        blocks.insert(0, Words(f"The run at work scores {status.rows_per_second:,.0f} rows/s."))
    return Section("runs", "Runs", blocks)


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    run = record["this_run"]
    rows = run["rows_scored"] + run["rows_quarantined"]
    real, computed = run.get("real_tokens"), run.get("computed_tokens")
    counts = isinstance(real, int) and isinstance(computed, int)
    kinds = record.get("chosen", {}).get("kinds", {})
    engines = sorted({f"{kind['engine']} {kind['dtype']}" for kind in kinds.values()})
    return (
        shown(record.get("began", "")),
        str(record["exit_code"]),
        whole(rows),
        f"{record['rows_per_second']:,.1f}",
        share(computed - real, computed) if counts else "–",
        share(run["rows_quarantined"], rows),
        ", ".join(engines),
        shown("; ".join(record.get("alarms", []))),
    )


def _rates(records: list[dict[str, Any]]) -> Chart:
    """Rows per second of each run that scored something, in the order of runs."""
    times = [_time(record) for record in records]
    rates = [record["rows_per_second"] for record in records]
    dated = [time for time in times if time is not None]

    def draw(axes: Any) -> None:
        places: list[Any] = dated if len(dated) == len(records) else list(range(1, len(rates) + 1))
        axes.plot(places, rates, color=MARK, marker="o", markersize=4)
        axes.set_ylabel("rows/s")
        axes.set_ylim(bottom=0)
        if places is dated:
            as_days(axes)
        else:
            axes.set_xlabel("run")

    return Chart("Rows per second of each run", drawing(draw))


def _time(record: dict[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(record.get("began", ""))
    except ValueError:
        return None
