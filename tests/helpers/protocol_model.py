"""A model checker for the commit protocol: a store, writers that run the real code, the search.

A writer is a function of what its store answers. So it is run with recorded answers up to
its next store operation, and that operation is kept; the schedules of several writers are
then a graph of (store, where each writer is), searched whole. At every point any writer may
go on, or be gone for good. Up to `faults` times in a schedule an operation fails: it is not
done; or it is a change, is done, and its reply is lost; or, with `late`, it is done at any time
after the error, by a request that the client has given up. At every end a run that starts
afresh repairs. Nothing is left out of what this describes, but with three writers there are
no faults, and once no crashes.

Within one writer the order is that of `runs.py` with one commit at a time; workers that a
dead run has left behind are writers of their own (`left_behind`).
"""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bertbatch.job.schema import Input, Runtime
from bertbatch.output import commit
from bertbatch.output.folder import Output
from bertbatch.plan.log import PlanLog
from bertbatch.plan.planner import Planner, cut_size
from bertbatch.plan.revisions import Revisions
from bertbatch.units import Cut, Source, Unit, digest

SCHEMA = pa.schema([("source", pa.string()), ("row", pa.int64())])
LARGE, SMALL = 1 << 20, 1  # bytes of a cut: a unit of its own, or one shared with others

# The store


@dataclass(frozen=True)
class Op:
    """One operation on the store."""

    name: str
    path: str
    data: bytes = b""

    def __str__(self) -> str:
        return f"{self.name} {self.path}"

    @property
    def changes(self) -> bool:
        return self.name in ("create", "replace", "delete")


class World:
    """What the store holds. Equal contents are one value, so that it can be a state."""

    _known: dict[frozenset[tuple[str, bytes]], "World"] = {}  # noqa: RUF012

    def __init__(self, files: dict[str, bytes]):
        self.files = files

    @classmethod
    def of(cls, files: dict[str, bytes]) -> "World":
        key = frozenset(files.items())
        if key not in cls._known:
            cls._known[key] = cls(files)
        return cls._known[key]

    def do(self, op: Op) -> tuple["World", Any]:
        """The store after an operation, and the answer or the error."""
        files = dict(self.files)
        answer = _do(files, op)
        return (World.of(files) if op.changes else self), answer


def _do(files: dict[str, bytes], op: Op) -> Any:
    match op.name:
        case "create" if op.path in files:
            return FileExistsError
        case "create" | "replace":
            files[op.path] = op.data
        case "delete":
            files.pop(op.path, None)
        case "read":
            return files.get(op.path, FileNotFoundError)
        case "names":
            below = [p[len(op.path) + 1 :] for p in files if p.startswith(op.path + "/")]
            return tuple(sorted(name for name in below if "/" not in name))
    return None


class Store:
    """The store's face to the code under test; `answer` performs an operation."""

    protocol, is_local, creates_conditionally = "model", False, True

    def __init__(self, answer: Callable[[Op], Any]):
        self._answer = answer

    def _ask(self, name: str, path: str, data: bytes = b"") -> Any:
        answer = self._answer(Op(name, path, data))
        if isinstance(answer, type):
            raise answer(path)
        return answer

    def create(self, path: str, data: bytes) -> None:
        self._ask("create", path, data)

    def replace(self, path: str, data: bytes) -> None:
        self._ask("replace", path, data)

    def delete(self, path: str) -> None:
        self._ask("delete", path)

    def read(self, path: str) -> bytes:
        return bytes(self._ask("read", path))

    def open(self, path: str) -> io.BytesIO:
        return io.BytesIO(self._ask("read", path))

    def names(self, folder: str) -> list[str]:
        return list(self._ask("names", folder))


# Writers


class Paused(BaseException):
    """A writer has come to an operation whose answer is not known yet."""


@dataclass
class Writer:
    """A program, run as far as the answers go. `Point.after` leads on."""

    name: str
    program: Callable[[Store], Any]

    def start(self) -> "Point":
        return Point(self, ())


class Point:
    """Where a writer stands after some answers: before its next operation, or at its end."""

    def __init__(self, writer: Writer, answers: tuple[Any, ...]):
        self._writer, self._answers = writer, answers
        self._next: dict[Any, Point] = {}
        self._moves: dict[World, tuple[World, Point]] = {}
        self.op: Op | None = None
        self.ended = ""  # "done", or the error that the writer ended with
        rest = iter(answers)

        def answer(op: Op) -> Any:
            for known in rest:
                return known
            self.op = self.op or op
            raise Paused

        begin(writer.name)
        try:
            writer.program(Store(answer))
            self.ended = "done"
        except Paused:
            pass
        except Exception as error:
            self.ended = f"{type(error).__name__}: {error}"

    def go_on(self, world: World) -> "tuple[World, Point]":
        """The store and the writer after its next operation."""
        if world not in self._moves:
            assert self.op
            after, answer = world.do(self.op)
            self._moves[world] = (after, self.after(answer))
        return self._moves[world]

    def after(self, answer: Any) -> "Point":
        if answer not in self._next:
            self._next[answer] = Point(self._writer, (*self._answers, answer))
        return self._next[answer]


attempts = SimpleNamespace(writer="", count=0)


def begin(writer: str) -> None:
    attempts.writer, attempts.count = writer, 0


def next_attempt() -> SimpleNamespace:
    attempts.count += 1
    return SimpleNamespace(hex=f"{attempts.writer}{attempts.count}")


class OneThread:
    """Instead of a thread pool: the order of a writer's operations must be its own."""

    def __init__(self, threads: int): ...

    def __enter__(self) -> "OneThread":
        return self

    def __exit__(self, *error: object) -> None: ...

    def map(self, function: Callable[[Any], Any], *items: Any) -> Iterator[Any]:
        return iter([function(*each) for each in zip(*items, strict=True)])


def encoded_once(encode: Callable[..., bytes]) -> Callable[..., bytes]:
    """The same bytes for the same content, as before, without the work of making them."""
    known: dict[str, bytes] = {}

    def look_up(table: pa.Table, *footer: dict[str, Any]) -> bytes:
        key = f"{pairs(table)} {footer}"
        if key not in known:
            known[key] = encode(table, *footer)
        return known[key]

    return look_up


# What writers do: a run in the order of runs.py, and a commit left behind by a dead run


@dataclass(frozen=True)
class Given:
    """One input file: its cuts as (rows, bytes), and which version of it."""

    cuts: tuple[tuple[int, int], ...]
    stamp: str = "1"


Inputs = dict[str, Given]
BAD_ROW = 1  # the number of the row that goes to quarantine, in each source that has it


class Cutter:
    """Stands for the readers: the cuts are given."""

    def __init__(self, inputs: Inputs):
        self._inputs = inputs

    def cut(self, source: Source, size: Any, options: Any) -> Iterator[Cut]:
        first = 0
        for rows, bytes_ in self._inputs[source.id].cuts:
            yield Cut(first, rows, first, first + rows, bytes_)
            first += rows


def listed(inputs: Inputs) -> list[Source]:
    return [Source(id_, id_, 1, given.stamp) for id_, given in sorted(inputs.items())]


def run(
    store: Any,
    inputs: Inputs,
    unreadable: frozenset[str] = frozenset(),
    mended: frozenset[str] = frozenset(),
    retry: bool = False,
    cured: bool = False,
) -> None:
    """A run, as runs.py orders it. It cannot read `unreadable`; `mended` have failed before.

    With `retry` it scores what is in quarantine again; if it is `cured`, without failing.
    """
    output = Output(store, "out")
    plan = PlanLog(store, "out", "model", {id_: id_ for id_ in inputs})
    plan.refresh()
    revisions = Revisions(plan, output, SCHEMA)
    committed = output.committed()
    sources = listed(inputs)
    planner = Planner(plan, Cutter(inputs), Input(path="in"), cut_size(Runtime(), 1 << 30))
    changed = {s.id for s in sources if plan.sources.get(s.id, s) != s}
    if changed & mended:
        revisions.withdraw(changed & mended)
    listing = {s.id: s for s in sources}
    as_planned = partial(is_as_planned, listing)
    pending = [u for u in plan.units.values() if u.id not in committed and as_planned(u)]
    failed = False
    new = any(s.id not in plan.sources for s in sources)
    if pending or new or (retry and any(revisions.retryable_rows(listing))):
        output.clear_success()
        if retry:
            revisions.plan_retry(listing)
        todo: Iterator[list[Unit]] | None = tasks(revisions, planner, sources, committed)
        while todo:
            bad = []
            for unit in (unit for units in todo for unit in units):
                if {span.source.id for span in unit.spans} & unreadable:
                    bad.append(unit)
                elif as_planned(unit):
                    commit_unit(output, unit, cured)
            failed = failed or bool(bad)
            todo = salvaged(revisions, bad, unreadable) if bad else None

    def judge() -> dict[str, Any] | None:
        there = output.committed()
        done = [unit for unit in plan.units.values() if unit.id in there]
        missing = [unit for unit in plan.units.values() if unit.id not in there]
        if failed or not all(unit.retry and not as_planned(unit) for unit in missing):
            return None
        plan_id, success = digest(sorted(plan.units)), output.success()
        if success is not None and success["plan"] == plan_id:
            return None
        rows = sum(unit.new_rows for unit in done)
        quarantined = output.quarantined(done)
        return {"rows_in": rows, "rows_quarantined": quarantined, "plan": plan_id}

    revisions.write_success_if_complete(judge)


def is_as_planned(listing: dict[str, Source], unit: Unit) -> bool:
    return all(listing.get(span.source.id) == span.source for span in unit.spans)


def tasks(
    revisions: Revisions, planner: Planner, sources: list[Source], committed: Any
) -> Iterator[list[Unit]]:
    plan, output = revisions.plan, revisions.output
    revisions.write_tombstones()
    yield [unit for unit in plan.units.values() if unit.id not in committed]
    for units in planner.extend(sources):
        output.clear_success()
        revisions.write_tombstones()
        yield units
    while units := plan.refresh():
        revisions.write_tombstones()
        yield units


def salvaged(
    revisions: Revisions, bad: list[Unit], unreadable: frozenset[str]
) -> Iterator[list[Unit]]:
    for unit in bad:
        if unit.retry:
            continue
        rest = [span for span in unit.spans if span.source.id not in unreadable]
        if 0 < len(rest) < len(unit.spans):
            yield revisions.replace_unit(unit, rest)


def commit_unit(output: Output, unit: Unit, cured: bool = False) -> None:
    rows = unit.retry.rows if unit.retry else places(unit)
    good = [pair for pair in rows if pair[1] != BAD_ROW or cured]
    bad = [pair for pair in rows if pair not in good]
    for tries in (1, 2, 3):  # as the pipeline does
        try:
            commit.commit(output, unit, table(*good), table(*bad), {})
            return
        except Exception as error:
            if tries == 3 or isinstance(error, OSError):
                raise


def places(unit: Unit) -> list[tuple[str, int]]:
    """All rows of its spans."""
    return [
        (span.source.id, row)
        for span in unit.spans
        for row in range(span.cut.first_row, span.cut.first_row + span.cut.rows)
    ]


@cache
def table(*rows: tuple[str, int]) -> pa.Table:
    return pa.table([[s for s, _ in rows], [r for _, r in rows]], schema=SCHEMA)


def left_behind(store: Any, units: list[Unit], cured: bool = False) -> None:
    """Workers that still commit what they were given, whatever has become of their run."""
    for unit in units:
        commit_unit(Output(store, "out"), unit, cured)


# What must hold


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


def pairs(rows: pa.Table) -> list[tuple[str, int]]:
    return list(zip(rows["source"].to_pylist(), rows["row"].to_pylist(), strict=True))


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
    plan = PlanLog(Store(lambda op: world.do(op)[1]), "out", "model", {})
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


# The search


@dataclass
class Search:
    """Every schedule of some writers. `states` counts what was seen."""

    inputs: Inputs  # for the run that repairs
    writers: list[Writer]
    mended: frozenset[str] = frozenset()
    faults: int = 1
    crashes: bool = True
    late: bool = False
    _checked: set[World] = field(default_factory=set)
    _repaired: set[World] = field(default_factory=set)

    def go(self, start: World | None = None) -> None:
        # The store, where the writers are, faults left, changes that may yet be made.
        State = tuple[World, tuple[Point | None, ...], int, frozenset[Op]]
        points = tuple(w.start() for w in self.writers)
        first: State = (start or World.of({}), points, self.faults, frozenset())
        came: dict[State, tuple[State, str] | None] = {first: None}
        todo = [first]
        while todo:
            state = todo.pop()
            try:
                self._check(state)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{_story(came, state)}") from error
            for after, what in self._steps(*state):
                if after not in came:
                    came[after] = (state, what)
                    todo.append(after)
        print(f"{len(came)} states")

    def _steps(
        self, world: World, points: tuple[Point | None, ...], faults: int, late: frozenset[Op]
    ) -> Iterator[tuple[Any, str]]:
        for op in late:
            yield (world.do(op)[0], points, faults, late - {op}), f"AT LAST {op}"
        for i, point in enumerate(points):
            if point is None or point.op is None:
                continue
            name, op = self.writers[i].name, point.op

            def moved(to: Point | None, i: int = i) -> tuple[Point | None, ...]:
                return (*points[:i], to, *points[i + 1 :])

            after, next_point = point.go_on(world)
            yield (after, moved(next_point), faults, late), f"{name}: {op}"
            if self.crashes:
                yield (world, moved(None), faults, late), f"{name} is gone before {op}"
            if not faults:
                continue
            failed = moved(point.after(OSError))
            yield (world, failed, faults - 1, late), f"{name}: {op}, FAILS"
            if op.changes:
                yield (after, failed, faults - 1, late), f"{name}: {op}, REPLY LOST"
                if self.late:
                    yield (world, failed, faults - 1, late | {op}), f"{name}: {op}, IS LATE"

    def _check(self, state: Any) -> None:
        world, points, *_ = state
        if world not in self._checked:
            self._checked.add(world)
            check_always(world)
        if any(point and point.op for point in points):
            return
        for point in points:
            # The store's errors may end a run; nothing else may.
            assert not point or point.ended == "done" or point.ended.startswith("OSError")
        # A run that dies between writing its success and looking at the plan again can leave
        # one that another run's new entry outdates: until that run ends, or the next begins.
        # A late write of it may outlast its deletion: its `plan` tells, and the next run sees.
        if all(point and point.ended == "done" for point in points) and not self.late:
            check_success(world)
        if world not in self._repaired:
            self._repaired.add(world)
            check_whole(self._repair(world), self.inputs)

    def _repair(self, world: World) -> World:
        files = dict(world.files)
        begin("R")
        run(Store(lambda op: _do(files, op)), self.inputs, mended=self.mended)
        return World.of(files)


def _story(came: dict[Any, Any], state: Any) -> str:
    lines = [
        f"{point.ended or 'is before ' + str(point.op)}" if point else "is gone"
        for point in state[1]
    ]
    steps = []
    while came[state]:
        state, what = came[state]
        steps.append(what)
    return "\n".join([*reversed(steps), "then the writers:", *lines])


# The cases

ONE = {"a": Given(((2, LARGE), (1, LARGE)))}
MORE = {"a": Given(((2, LARGE),)), "b": Given(((1, LARGE),))}
LESS = {"a": MORE["a"]}
SHARED = {"a": Given(((2, SMALL),)), "b": Given(((1, SMALL),))}
ALONE = {"b": Given(((2, LARGE),))}
TWO_BAD = {"a": Given(((2, SMALL),)), "b": Given(((2, SMALL),))}
B = frozenset("b")


def runs(*inputs: Inputs, **keys: Any) -> list[Writer]:
    return [
        Writer(name, partial(run, inputs=its, **keys))
        for name, its in zip("ABC", inputs, strict=False)
    ]


def cannot_read_b(name: str, inputs: Inputs) -> Writer:
    return Writer(name, partial(run, inputs=inputs, unreadable=B))


def again(name: str, inputs: Inputs, **keys: Any) -> Writer:
    """A run that scores what is in quarantine again."""
    return Writer(name, partial(run, inputs=inputs, retry=True, **keys))


def left_over(world: World, *numbers: int, cured: bool = False) -> Writer:
    """A worker that still commits some of the units that are in force in a world."""
    units = list(log_of(world).units.values())
    return Writer("L", partial(left_behind, units=[units[i] for i in numbers], cured=cured))


def after(*writers: Writer, until: str = "", start: World | None = None) -> World:
    """What is there after these writers, one after the other, or before one's operation."""
    world = start or World.of({})
    for writer in writers:
        point = writer.start()
        while point.op and not (until and until in str(point.op)):
            world, point = point.go_on(world)
    return world


def changed(inputs: Inputs) -> Inputs:
    return {**inputs, "b": Given(inputs["b"].cuts, stamp="2")}
