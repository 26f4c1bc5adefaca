"""What must hold of a store's contents."""

import io
import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bertbatch.plan.log import PlanLog
from bertbatch.units import digest
from tests.helpers.protocol.runs import BAD_ROW, Inputs, pairs, places
from tests.helpers.protocol.store import Store, World


@dataclass(frozen=True)
class Part:
    """A committed part, read back: its footer, its rows, and those of its side file."""

    footer: dict[str, Any]
    rows: list[tuple[str, int]]

    @property
    def side_files(self) -> list[str]:
        return [f"out/{path}" for path in self.footer["side_files"].values()]


@cache
def read_part(data: bytes) -> Part:
    file = pq.ParquetFile(io.BytesIO(data))
    footer = json.loads(file.metadata.metadata[b"bertbatch"])
    return Part(footer, pairs(file.read()))


@cache
def read_side(data: bytes) -> list[tuple[str, int]]:
    return pairs(pa.ipc.open_file(data).read_all())


def parts(world: World) -> dict[str, Part]:
    """The parts by unit."""
    found = [read_part(d) for path, d in world.files.items() if path.endswith(".parquet")]
    return {part.footer["unit"]: part for part in found}


def in_quarantine(world: World, part: Part) -> list[tuple[str, int]]:
    for path in part.side_files:
        assert path in world.files, f"{path} is named by a part, and missing"
    return [row for path in part.side_files for row in read_side(world.files[path])]


def rows_of(world: World, part: Part) -> list[tuple[str, int]]:
    """All rows that a part accounts for."""
    rows = part.rows + in_quarantine(world, part)
    assert len(part.rows) == part.footer["rows_scored"]
    assert len(rows) == part.footer["rows_in"]
    return rows


def log_of(world: World) -> PlanLog:
    plan = PlanLog(Store(lambda op: world.do(op)[1]), "out", "model", lambda id_: "")
    plan.refresh()
    return plan


def check_always(world: World) -> None:
    """At every moment: no row twice, no side file missing, no overlap in what is planned.

    A unit that scores rows again may have those alone that the other has in quarantine.
    """
    there, plan = parts(world), log_of(world)
    units = {**plan.units, **plan.withdrawn}
    scored = Counter(row for part in there.values() for row in part.rows)
    assert max(scored.values(), default=1) == 1, f"scored twice: {scored}"
    first = [part for id_, part in there.items() if id_ not in units or not units[id_].retry]
    rows = Counter(row for part in first for row in rows_of(world, part))
    assert max(rows.values(), default=1) == 1, f"rows twice: {rows}"
    planned = Counter(row for u in plan.units.values() if not u.retry for row in places(u))
    assert max(planned.values(), default=1) == 1, f"units in force overlap: {planned}"
    tried = Counter(u.retry.unit for u in plan.units.values() if u.retry)
    assert max(tried.values(), default=1) == 1, f"planned again twice: {tried}"
    for unit in plan.units.values():
        if unit.retry:
            assert unit.retry.unit in plan.units, f"{unit.part} scores again what is withdrawn"
            bad = in_quarantine(world, there[unit.retry.unit])
            assert set(unit.retry.rows) <= set(bad), f"{unit.part} has rows not in quarantine"
            if unit.id in there:
                assert set(rows_of(world, there[unit.id])) == set(unit.retry.rows)


def check_success(world: World) -> None:
    """`_SUCCESS.json` is there only if all that is planned is committed."""
    if data := world.files.get("out/_SUCCESS.json"):
        plan, there = log_of(world), parts(world)
        for unit in plan.units.values():
            assert unit.id in there, f"success, but {unit.part} is missing"
            assert not there[unit.id].footer.get("void"), f"success, but {unit.part} is void"
        assert json.loads(data)["plan"] == digest(sorted(plan.units))


def check_whole(world: World, inputs: Inputs) -> None:
    """After a run that could read everything: every row once, and the books are right."""
    check_success(world)
    assert "out/_SUCCESS.json" in world.files, "no success"
    plan, there = log_of(world), parts(world)
    first = [id_ for id_, unit in plan.units.items() if not unit.retry]
    rows = [row for unit in first for row in rows_of(world, there[unit])]
    expected = [
        (id_, r) for id_, given in inputs.items() for r in range(sum(n for n, _ in given.cuts))
    ]
    assert sorted(rows) == sorted(expected)
    assert {s.id: s.stamp for s in plan.sources.values()} == {i: g.stamp for i, g in inputs.items()}
    others = [part for id_, part in there.items() if id_ not in plan.units]
    assert all(part.footer.get("void") for part in others), "a part out of force has rows"
    record = json.loads(world.files["out/_SUCCESS.json"])
    assert record["rows_in"] == len(expected)
    scored = {row for part in there.values() for row in part.rows}
    assert record["rows_quarantined"] == len(set(expected) - scored)
    assert {row for _, row in set(expected) - scored} <= {BAD_ROW}
