"""The commit protocol as a model: the real code, every interleaving, every crash, lost replies.

The cases, and breaks of the protocol that they must find; `tests/helpers/protocol/` has the search.
"""

from functools import partial
from types import SimpleNamespace

import pytest

import bertbatch.output.folder
import bertbatch.plan.planner
from bertbatch.output import commit
from bertbatch.output.folder import Output
from bertbatch.plan.log import PlanLog
from bertbatch.plan.revisions import Revisions
from bertbatch.storage import retry
from tests.helpers.protocol.cases import (
    ALONE,
    LESS,
    MORE,
    ONE,
    SHARED,
    TWO_BAD,
    B,
    after,
    again,
    cannot_read_b,
    changed,
    left_over,
    runs,
)
from tests.helpers.protocol.checks import check_whole, log_of
from tests.helpers.protocol.determinism import OneThread, encoded_once, next_attempt
from tests.helpers.protocol.runs import run
from tests.helpers.protocol.search import Search
from tests.helpers.protocol.store import Store
from tests.helpers.protocol.writers import Writer


@pytest.fixture(autouse=True)
def deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bertbatch.plan.planner, "ThreadPoolExecutor", OneThread)
    monkeypatch.setattr(bertbatch.output.folder, "ThreadPoolExecutor", OneThread)
    monkeypatch.setattr(commit, "encode_part", encoded_once(commit.encode_part))
    monkeypatch.setattr(commit, "encode_side", encoded_once(commit.encode_side))
    monkeypatch.setattr(commit, "uuid", SimpleNamespace(uuid4=next_attempt))
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=lambda seconds: None))


def test_two_runs_on_the_same_input_commit_each_unit_once():
    Search(ONE, runs(ONE, ONE)).go()


def test_a_commit_is_tried_again_after_every_kind_of_error():
    world = after(*runs(ONE), until="quarantine")
    Search(ONE, [left_over(world, 0), *runs(ONE)], faults=3).go(world)


def test_one_run_plans_more_while_the_other_ends():
    Search(MORE, runs(LESS, MORE)).go()
    Search(MORE, [*runs(LESS), cannot_read_b("B", MORE)]).go()


def test_a_shared_unit_is_divided_while_others_commit_it():
    world = after(*runs(SHARED), until="quarantine")
    writers = [cannot_read_b("B", SHARED), left_over(world, 0), *runs(SHARED)]
    Search(SHARED, writers, faults=0).go(world)
    Search(SHARED, [*runs(SHARED), cannot_read_b("B", SHARED)]).go()


def test_two_runs_divide_a_shared_unit_and_a_third_plans_what_is_left():
    world = after(*runs(SHARED), until="quarantine")
    both = [cannot_read_b(name, SHARED) for name in "BC"]
    Search(SHARED, both).go(world)
    Search(SHARED, [*both, left_over(world, 0)], faults=0).go(world)


@pytest.mark.parametrize("inputs", [MORE, SHARED])
def test_a_repaired_source_is_planned_anew_while_others_commit_the_old(inputs):
    old = after(*runs(inputs), until="quarantine")
    new = changed(inputs)
    mended = runs(new, new, mended=B)
    late = left_over(old, len(log_of(old).units) - 1)
    Search(new, [mended[0], late], mended=B).go(old)
    Search(new, mended, mended=B, faults=0).go(old)
    if inputs is MORE:
        Search(new, [*mended, late], mended=B, faults=0, crashes=False).go(old)


def test_a_source_that_changes_back_is_scored_again():
    new, was = changed(MORE), frozenset("b")
    world = after(
        cannot_read_b("A", MORE),
        Writer("B", partial(run, inputs=new, unreadable=B, mended=was)),
        Writer("C", partial(run, inputs=MORE, mended=was)),
    )
    check_whole(world, MORE)


@pytest.mark.faults
def test_two_runs_score_what_is_in_quarantine_again():
    world = after(*runs(ONE))
    Search(ONE, [again("A", ONE, cured=True), again("B", ONE)]).go(world)


@pytest.mark.faults
def test_rows_are_scored_again_while_another_run_still_scores():
    Search(ONE, [*runs(ONE), again("B", ONE, cured=True)]).go()


@pytest.mark.parametrize("inputs", [ALONE, TWO_BAD], ids=["alone", "shared"])
def test_a_source_is_withdrawn_while_its_rows_are_scored_again(inputs):
    old, new = after(*runs(inputs)), changed(inputs)
    (mended,) = runs(new, mended=B)
    # Those of both sources, planned again and scored without success; those of what is as planned.
    both = after(again("0", inputs), start=old)
    rest = after(again("0", new), start=old, until="part-")
    for world in (both, rest):
        late = left_over(world, len(log_of(world).units) - 1, cured=True)
        Search(new, [late, mended], mended=B).go(world)
    if inputs is ALONE:
        Search(new, [mended, again("C", new, cured=True)], mended=B, faults=0).go(both)


@pytest.mark.faults
def test_requests_that_are_done_after_they_have_failed_are_harmless():
    Search(ONE, runs(ONE, ONE), late=True).go()
    Search(MORE, runs(LESS, MORE), late=True).go()
    old, new = after(*runs(MORE)), changed(MORE)
    Search(new, runs(new, new, mended=B), mended=B, late=True).go(old)
    world = after(*runs(SHARED), until="quarantine")
    Search(SHARED, [cannot_read_b("A", SHARED), *runs(SHARED)], late=True).go(world)


# The check can fail


def side_files_after_the_part(monkeypatch):
    put, create, late = commit._put, commit._create_side, []
    monkeypatch.setattr(commit, "_create_side", lambda *side: late.append(side))

    def put_first(*arguments):
        mine, late[:] = late[:], []
        result = put(*arguments)
        for side in mine:
            create(*side)
        return result

    monkeypatch.setattr(commit, "_put", put_first)


def the_winners_side_files_deleted(monkeypatch):
    put = commit._put

    def put_and_delete(output, *rest):
        result = put(output, *rest)
        for path in () if result.ours else result.footer["side_files"].values():
            output.store.delete(output.at(path))
        return result

    monkeypatch.setattr(commit, "_put", put_and_delete)


def every_error_means_another_won(monkeypatch):
    monkeypatch.setattr(commit, "_footer", lambda output, part: {"attempt": "another"})


def no_look_at_the_footer(monkeypatch):
    monkeypatch.setattr(commit, "_footer", lambda output, part: None)


def plan_entries_overwritten(monkeypatch):
    create = Store.create

    def overwrite(self, path, data):
        (self.replace if "/plan/" in path else partial(create, self))(path, data)

    monkeypatch.setattr(Store, "create", overwrite)


def no_tombstones(monkeypatch):
    monkeypatch.setattr(Revisions, "write_tombstones", lambda self: None)


def tombstones_by_deleting_first(monkeypatch):
    write_tombstone = commit.write_tombstone

    def delete_and_create(output, unit, schema):
        output.store.delete(output.at(unit.part))
        write_tombstone(output, unit, schema)

    monkeypatch.setattr(commit, "write_tombstone", delete_and_create)


def no_second_look_at_the_plan(monkeypatch):
    def write_at_once(self, judge):
        if record := judge():
            self.output.write_success(record)

    monkeypatch.setattr(Revisions, "write_success_if_complete", write_at_once)


def success_not_cleared(monkeypatch):
    monkeypatch.setattr(Output, "clear_success", lambda self: None)


def rows_of_withdrawn_units_still_scored_again(monkeypatch):
    apply = PlanLog.apply

    def keep(self, entry):
        kept = [u for u in self.units.values() if u.retry and u.id not in entry.withdrawn]
        added = apply(self, entry)
        for unit in kept:
            self.units[unit.id] = unit
            self.need_tombstones.pop(unit.id, None)
        return added

    monkeypatch.setattr(PlanLog, "apply", keep)


@pytest.mark.parametrize(
    ("break_it", "case"),
    [
        (side_files_after_the_part, test_two_runs_on_the_same_input_commit_each_unit_once),
        (the_winners_side_files_deleted, test_two_runs_on_the_same_input_commit_each_unit_once),
        (every_error_means_another_won, test_two_runs_on_the_same_input_commit_each_unit_once),
        (no_look_at_the_footer, test_two_runs_on_the_same_input_commit_each_unit_once),
        (plan_entries_overwritten, test_one_run_plans_more_while_the_other_ends),
        (no_second_look_at_the_plan, test_one_run_plans_more_while_the_other_ends),
        (success_not_cleared, test_one_run_plans_more_while_the_other_ends),
        (no_tombstones, test_a_shared_unit_is_divided_while_others_commit_it),
        (tombstones_by_deleting_first, test_a_shared_unit_is_divided_while_others_commit_it),
        (
            rows_of_withdrawn_units_still_scored_again,
            partial(test_a_source_is_withdrawn_while_its_rows_are_scored_again, TWO_BAD),
        ),
    ],
)
def test_the_check_can_fail(break_it, case, monkeypatch):
    break_it(monkeypatch)
    with pytest.raises(AssertionError):
        case()
