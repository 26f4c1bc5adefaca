"""What the output is: its state, its model, its runs, its totals."""

from typing import Any

from bertbatch.output.contract import stored_fingerprint, stored_models
from bertbatch.report.blocks import Block, Section, Table, shown, whole
from bertbatch.report.material import Material
from bertbatch.report.scan import carried_columns

PROBLEMS = 20  # shown


def facts(material: Material) -> Section:
    blocks: list[Block] = [Table("Output", ("", ""), _output(material))]
    if material.problems:
        blocks.append(
            Table(
                f"{len(material.problems):,} problems; bertbatch verify checks everything",
                ("problem",),
                [(shown(problem),) for problem in material.problems[:PROBLEMS]],
            )
        )
    for model, said in stored_models(material.answers.contract).items():
        blocks.append(Table(f"Model {shown(model)}".strip(), ("", ""), _model(said)))
    blocks.append(Table("How it is scored", ("", ""), _contract(material), folded=True))
    return Section("facts", "Facts", blocks)


def state(material: Material) -> str:
    """Complete, running, stopped or broken, in words."""
    if material.problems:
        return "broken: some of it cannot be read, or does not add up"
    status = material.status
    if status is None or status.state == "complete":
        return "complete: every planned unit is committed"
    if status.state == "running":
        return f"running: {status.share_done:.1%} of the planned rows are committed"
    return f"{status.state}: {status.share_done:.1%} of the planned rows are committed"


def _output(material: Material) -> list[tuple[str, str]]:
    scan, there = material.scan, material.there
    rows = [("path", shown(material.output.path)), ("state", state(material))]
    if there:
        units = there.plan.units.values()
        rows += [
            ("sources", whole(len(there.plan.sources))),
            ("units", f"{len(there.units):,} of {len(units):,} committed"),
            ("rows planned", whole(sum(unit.new_rows for unit in units))),
        ]
    rows += [
        ("rows scored", whole(scan.rows)),
        ("rows in quarantine", whole(material.rows_quarantined)),
    ]
    if scan.left_out:
        rows.append(("rows left out", whole(scan.left_out)))
    return rows


def _model(said: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, value in said.items():
        if value is None:
            continue
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        rows.append((shown(key), shown(text)))
    return rows


def _contract(material: Material) -> list[tuple[str, str]]:
    contract = material.answers.contract
    rows = [("scoring fingerprint", stored_fingerprint(contract))]
    rows += [(shown(key), shown(value)) for key, value in _flat(contract.get("input"), "input")]
    rows += [
        (shown(key), shown(value)) for key, value in _flat(contract.get("attention"), "attention")
    ]
    rows.append(("carried columns", shown(", ".join(carried_columns(material.answers)))))
    return rows


def _flat(value: Any, prefix: str) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{prefix}.{key}")]
    return [] if value is None else [(prefix, str(value))]
