"""The judge of the drills, with ledgers of good and of bad runs."""

from __future__ import annotations

from lab.ledger import Judgement, judge
from tests.support.drill_records import entry, record


def test_tasks_executed_once_are_good() -> None:
    found = judge([entry(0, 1, 0, 5), entry(1, 1, 0, 5)], {0: "success", 1: "success"})
    assert found == Judgement()
    assert found.good()


def test_task_that_succeeds_after_an_interrupted_attempt_is_good() -> None:
    attempts = [entry(0, 1, 0, 2, ended=False), entry(0, 2, 25, 30, host="worker2")]
    assert judge(attempts, {0: "success"}).good()


def test_task_without_an_entry_is_lost_even_if_airflow_reports_success() -> None:
    found = judge([entry(0, 1, 0, 5)], {0: "success", 1: "success"})
    assert found.lost == [1]
    assert not found.good(overlap=True)


def test_task_that_never_ended_is_lost() -> None:
    found = judge([entry(0, 1, 0, 2, ended=False)], {0: "success"})
    assert found.lost == [0]
    assert not found.good()


def test_effect_that_is_committed_twice_is_a_duplicate_with_any_fault() -> None:
    found = judge([entry(0, 1, 0, 5), entry(0, 2, 10, 15)], {0: "success"})
    assert found.duplicated == [0]
    assert not found.good(overlap=True)


def test_task_that_ends_twice_is_executed_twice() -> None:
    found = judge([entry(0, 1, 0, 5), entry(0, 2, 10, 15, committed=False)], {0: "success"})
    assert (found.duplicated, found.executed_twice) == ([], [0])
    assert not found.good()
    assert found.good(overlap=True)


def test_two_attempts_at_the_same_time_overlap() -> None:
    found = judge([entry(0, 1, 0, 12, ended=False), entry(0, 2, 10, 15)], {0: "success"})
    assert found.overlaps == {0: 2.0}
    assert not found.good()
    assert found.good(overlap=True)


def test_attempts_one_after_the_other_do_not_overlap() -> None:
    assert not judge([entry(0, 1, 0, 10, ended=False), entry(0, 2, 10, 15)], {0: "success"}).overlaps


def test_task_that_airflow_reports_as_failed_is_failed_even_if_it_is_committed() -> None:
    found = judge([entry(0, 1, 0, 5)], {0: "failed"})
    assert found.failed == [0]
    assert not found.good(overlap=True)


def test_recovery_lasts_until_the_last_interrupted_task_has_started_again() -> None:
    interrupted = [entry(0, 1, 5, 9, ended=False), entry(1, 1, 6, 9, ended=False)]
    again = [entry(2, 1, 12, 15), entry(0, 2, 30, 35), entry(1, 2, 32, 35)]
    assert record(*interrupted, *again).recovery == 22


def test_without_an_interrupted_task_recovery_lasts_until_a_task_starts() -> None:
    assert record(entry(0, 1, 5, 11), entry(1, 1, 12.5, 15)).recovery == 2.5


def test_failed_requests_are_counted_and_do_not_fail_a_drill() -> None:
    found = record(entry(0, 1, 5, 11))
    assert found.failed_requests == 1
    assert found.passed


def test_unhealthy_lab_fails_a_drill() -> None:
    found = record(entry(0, 1, 5, 11))
    found.problems.append("worker1: does not answer")
    assert not found.passed
