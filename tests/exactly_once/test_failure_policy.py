"""What becomes of work that failed, one decision at a time."""

import errno
from collections import deque

import pytest

from bertbatch.errors import DeviceLost, OutOfMemory, RunError, SourceError
from bertbatch.runtime import failures
from bertbatch.runtime.executors.executor import NodeGone, WorkerDied
from bertbatch.runtime.failures import Failures
from bertbatch.runtime.work import Work
from bertbatch.units import Unit
from tests.helpers.simulated_executor import make_units


@pytest.fixture
def given_up() -> list[str]:
    return []


@pytest.fixture
def policy(given_up):
    return Failures(lambda unit: given_up.append(unit.id))


def begun(unit: Unit) -> Work:
    """A unit whose only range runs somewhere."""
    return Work(unit, None, None, deque())


@pytest.mark.parametrize("death", [WorkerDied("killed"), DeviceLost("CUDA error")])
def test_all_that_a_dead_worker_had_begun_runs_again_alone(policy, death):
    first, second = map(begun, make_units(2, 10))
    assert policy.died(0, [(first, (0, 10)), (second, (0, 10))], death) == []
    assert policy.outcome.worker_deaths == 1
    assert [policy.next_suspect(1, True) for _ in range(3)] == [first, second, None]
    assert first.todo == second.todo == deque([(0, 10)])  # whole, not yet in pieces
    assert first.suspect
    assert second.suspect


def test_a_suspect_runs_elsewhere_if_it_can(policy, monkeypatch):
    (work,) = map(begun, make_units(1, 10))
    policy.raised(0, work, (0, 10), ValueError("no"))
    assert policy.next_suspect(0, others=True) is None
    assert policy.next_suspect(0, others=False) is work
    policy.more_to_score(work)
    monkeypatch.setattr(failures, "ELSEWHERE_SECONDS", -1)
    assert policy.next_suspect(0, others=True) is work


def test_a_row_that_fails_alone_twice_is_quarantined_and_no_other(policy):
    (work,) = map(begun, make_units(1, 40))
    policy.raised(0, work, (0, 40), ValueError("no"))
    runs = 0
    while policy.suspects:
        work = policy.next_suspect(1, True)
        first, stop = work.todo.popleft()
        runs += 1
        if first <= 7 < stop:
            finished = policy.raised(0, work, (first, stop), ValueError("no"))
        else:
            policy.scored(1)
            work.pieces[first] = list(range(first, stop))
            finished = [] if policy.more_to_score(work) else [work]
    assert finished == [work]
    assert [row for row, _ in work.poison] == [7]
    assert sorted(row for piece in work.pieces.values() for row in piece) == [
        row for row in range(40) if row != 7
    ]
    assert runs < 40


def test_a_node_that_goes_is_nobodys_fault_three_times(policy):
    work, other = map(begun, make_units(2, 10))
    for _ in range(failures.NODES_FORGIVEN):
        back = policy.died(0, [(work, (0, 10)), (other, (0, 10))], NodeGone("gone"))
        assert back == [work, other]
        for each in back:
            assert each.todo.popleft() == (0, 10)
    assert not policy.suspects
    assert policy.died(0, [(work, (0, 10))], NodeGone("gone")) == []
    assert policy.suspects == 1


def test_forty_failures_in_a_row_give_up_a_unit_then_the_run(policy, given_up):
    units = iter(make_units(99, 10))
    for _ in range(failures.FAILURES_IN_A_ROW):
        policy.raised(0, begun(next(units)), (0, 10), ValueError("no"))
    assert given_up == [f"u{failures.FAILURES_IN_A_ROW - 1}"]
    for _ in range(failures.FAILURES_IN_A_ROW - 1):
        policy.raised(0, begun(next(units)), (0, 10), ValueError("no"))
    with pytest.raises(RunError, match="80 times in a row"):
        policy.raised(0, begun(next(units)), (0, 10), ValueError("no"))


def test_a_success_between_makes_it_no_row_of_failures(policy, given_up):
    for unit in make_units(99, 10):
        policy.raised(0, begun(unit), (0, 10), ValueError("no"))
        policy.scored(0)
    assert not given_up


@pytest.mark.parametrize(
    ("errors", "sick"),
    [
        ([ValueError()], False),
        ([ValueError(), ValueError()], True),
        ([OutOfMemory(), OutOfMemory(), OutOfMemory()], False),
        ([ValueError(), OutOfMemory(), ValueError()], True),
    ],
)
def test_a_worker_is_sick_after_two_failures_that_are_not_memory(policy, errors, sick):
    assert [policy.is_sick(0, error) for error in errors][-1] == sick
    assert not policy.is_sick(1, ValueError())


def test_a_unit_is_read_again_five_times(policy, given_up):
    units = make_units(2, 10)
    for _ in range(failures.REREADS):
        assert policy.to_read_again(units[:1], "lost") == units[:1]
    assert policy.to_read_again(units, "lost") == units[1:]
    assert given_up == ["u0"]
    assert policy.outcome.failed_units == {"u0": "6 times: lost"}


def test_what_the_storage_refused_is_not_tried_again_and_four_in_a_row_end_the_run(policy):
    for number, unit in enumerate(make_units(4, 10)):
        assert not policy.storage_is_full
        assert policy.may_commit_again(unit, 1, ValueError("worth another try"))
        assert not policy.may_commit_again(unit, 1, OSError(errno.ENOSPC, "full")), number
    assert policy.storage_is_full


def test_names_that_are_too_long_are_the_units_own(policy, given_up):
    for unit in make_units(9, 10):
        assert not policy.may_commit_again(unit, 1, OSError(errno.ENAMETOOLONG, "too long"))
        assert not policy.may_commit_again(unit, failures.COMMIT_TRIES, ValueError("no file"))
    assert len(given_up) == 18
    assert not policy.storage_is_full


def test_a_source_takes_its_units_along(policy, given_up):
    policy.source(SourceError("a", "is gone"), make_units(2, 10))
    assert policy.outcome.failed_sources == {"a": "is gone"}
    assert list(policy.outcome.failed_units) == given_up == ["u0", "u1"]
