"""The judge of drills, fed with made-up histories: what is wrong must fail, and what no system can avoid must not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from lab.history import Line
from lab.judge import FAILED, INCONCLUSIVE, PASSED, Verdict, judge
from tests.support import histories
from tests.support.histories import attempt, client, event, healthy, history, problem, task, unreadable, worker_crash

CRASH = event(0, "crash", ["worker1"], 10, 30)
INTERRUPTED = attempt("worker1", 5, seen=9)
AGAIN = attempt("worker2", 28, 34)


def verdict(
    *lines: Line | Iterable[Line], events: Iterable[Line] = CRASH, run: str = "success", **fields: Any
) -> Verdict:
    """Judge a run that worker1's crash has caught: one task is interrupted and runs again, beside the given ones.

    `fields` are of the first line of its history.
    """
    usual = task(90, INTERRUPTED, AGAIN) if events is CRASH else task(90, attempt("worker1", 5, 90))
    first = histories.begin(**fields)
    return judge(history(first, client(), usual, *lines, events, histories.run(run), healthy(95), histories.end()))


def rules(found: Verdict) -> list[tuple[str, str]]:
    return [(one.rule, one.task) for one in found.findings]


def test_worker_crash_passes() -> None:
    found = judge(worker_crash())
    assert (found.outcome, found.findings) == (PASSED, [])
    assert found.hits == [{"running": 8, "received": 3}]
    assert found.recovery == 24.8
    assert (found.requests, found.failed_requests) == (50, 0)


def test_task_without_an_effect_is_lost_even_if_airflow_reports_success() -> None:
    found = verdict(task(0, attempt("worker2", 12, state="success")))
    assert rules(found) == [("lost", "work[0]")]
    assert found.outcome == FAILED


def test_task_that_waits_for_ever_is_lost_and_stuck() -> None:
    found = verdict(task(0, attempt("", None, queued=12), state="queued"), run="running")
    assert {("lost", "work[0]"), ("stuck", "work[0]"), ("stuck", "")} <= set(rules(found))


def test_effect_that_is_committed_twice_is_a_duplicate_with_any_fault() -> None:
    twice = task(0, attempt("worker1", 5, 9), attempt("worker2", 28, 34, committed=True))
    assert ("duplicated", "work[0]") in rules(verdict(twice))


def test_task_that_runs_to_its_end_twice_without_a_reason_is_executed_twice() -> None:
    found = verdict(task(0, attempt("worker2", 5, 9), attempt("worker1", 35, 40)))
    assert rules(found) == [("executed twice", "work[0]"), ("attempt used", "work[0]")]


def test_task_that_had_ended_when_its_worker_lost_power_is_repeated_unavoidably() -> None:
    found = verdict(task(0, attempt("worker1", 5, 9.5), attempt("worker2", 28, 34)))
    assert found.outcome == PASSED
    assert [(one.rule, one.task) for one in found.unavoidable] == [("executed twice", "work[0]")]


def test_task_that_had_ended_long_before_its_worker_lost_power_must_not_be_repeated() -> None:
    assert ("executed twice", "work[0]") in rules(
        verdict(task(0, attempt("worker1", 2, 5), attempt("worker2", 28, 34)))
    )


@pytest.mark.parametrize(
    ("what", "target", "unavoidable"),
    [
        ("freeze", "", True),
        ("partition", "load_balancer", True),
        ("partition", "broker", True),
        ("partition", "queue", False),
    ],
)
def test_two_attempts_at_the_same_time_are_unavoidable_while_a_worker_is_silent(
    what: str, target: str, unavoidable: bool
) -> None:
    silence = event(0, what, ["worker1"], 10, 50, target=target)
    found = verdict(task(0, attempt("worker1", 5, seen=50), attempt("worker2", 28, 48)), events=silence)
    assert (found.outcome == PASSED) == unavoidable
    assert (("overlap", "work[0]") in rules(found)) != unavoidable


def test_two_attempts_at_the_same_time_on_a_healthy_worker_overlap() -> None:
    found = verdict(task(0, attempt("worker2", 5, seen=30), attempt("worker1", 28, 34)))
    assert ("overlap", "work[0]") in rules(found)


def test_attempts_one_after_the_other_do_not_overlap() -> None:
    assert verdict(task(0, INTERRUPTED, AGAIN)).outcome == PASSED


def test_attempt_of_a_healthy_worker_must_not_be_used() -> None:
    other = task(0, attempt("worker2", 5, seen=9), attempt("worker2", 28, 34))
    assert rules(verdict(other)) == [("attempt used", "work[0]")]


@pytest.mark.parametrize("what", ["restart", "kill"])
def test_restarted_broker_explains_no_attempt(what: str) -> None:
    queue = event(0, what, ["broker"], 10, 10, target="queue")
    found = verdict(task(0, INTERRUPTED, AGAIN), events=queue)
    assert ("attempt used", "work[0]") in rules(found)


def test_pause_of_the_database_explains_no_attempt_of_a_running_task() -> None:
    found = verdict(
        task(0, attempt("worker1", 5, seen=30), attempt("worker2", 70, 80)),
        events=event(0, "freeze", ["broker"], 20, 45),
    )
    assert ("attempt used", "work[0]") in rules(found)


def test_database_that_is_killed_explains_the_attempt_of_a_task_that_starts() -> None:
    killed = event(0, "kill", ["broker"], 10, 10, target="database")
    assert (
        verdict(task(0, attempt("worker1", None, queued=9), attempt("worker2", 28, 34)), events=killed).outcome
        == PASSED
    )
    later = task(0, attempt("worker1", 40, seen=41), attempt("worker2", 60, 64))
    assert ("attempt used", "work[0]") in rules(verdict(later, events=killed))


def test_task_that_fails_and_its_run_are_named() -> None:
    found = verdict(task(0, attempt("worker1", 5, seen=9, state="failed")), run="failed")
    assert {("lost", "work[0]"), ("failed", "work[0]")} <= set(rules(found))


def test_task_that_waits_long_after_the_last_fault_while_slots_are_free_is_late() -> None:
    assert rules(verdict(task(0, attempt("worker2", 92, 94, queued=12)))) == [("late", "work[0]")]


def test_task_that_waits_for_a_slot_is_not_late() -> None:
    busy = [task(number, attempt(f"worker{1 + number % 2}", 35, 91)) for number in range(1, 17)]
    assert verdict(task(0, attempt("worker2", 92, 94, queued=12)), *busy).outcome == PASSED


def test_run_that_airflow_accepted_and_does_not_know_is_lost() -> None:
    found = verdict(client(run="drill-1"))
    assert [(one.rule, one.run) for one in found.findings] == [("lost", "drill-1")]


def test_run_without_an_answer_may_be_there_or_not() -> None:
    assert verdict(client(run="drill-1", phase="unknown")).outcome == PASSED
    there: list[Any] = [task(0, attempt("worker1", 32, 34), run="drill-1"), histories.run(run="drill-1")]
    assert verdict(client(run="drill-1", phase="unknown"), *there).outcome == PASSED
    lost: list[Any] = [task(0, attempt("worker1", 32, state="success"), run="drill-1"), histories.run(run="drill-1")]
    assert verdict(client(run="drill-1", phase="unknown"), *lost).outcome == FAILED


def test_unhealthy_lab_fails() -> None:
    found = verdict(problem("worker1: does not answer"))
    assert (found.outcome, rules(found)) == (FAILED, [("unhealthy", "")])


def test_fault_that_caught_nothing_is_inconclusive() -> None:
    found = verdict(events=event(0, "kill", ["master1"], 10, 10, target="triggerer"))
    assert (found.outcome, found.unknown) == (INCONCLUSIVE, ["no fault caught a task"])


def test_event_that_did_not_begin_is_inconclusive() -> None:
    failed: dict[str, Any] = CRASH[0] | {"phase": "failed"}
    assert verdict(task(0, attempt("worker1", 5, 9)), events=[CRASH[0], failed]).outcome == INCONCLUSIVE


def test_records_that_cannot_be_read_are_neither_passed_nor_failed() -> None:
    found = verdict(
        task(0, attempt("worker1", 5, 9, committed=False)), unreadable("the records of the tasks", "timeout")
    )
    assert found.outcome == INCONCLUSIVE


def test_history_that_was_interrupted_is_inconclusive() -> None:
    lines = [line for line in worker_crash() if line["kind"] != "end"]
    assert judge(lines).outcome == INCONCLUSIVE


def test_judge_changes_nothing_and_asks_nothing_else() -> None:
    lines = worker_crash()
    copies = [dict(line) for line in lines]
    assert judge(lines).document() == judge(lines).document()
    assert lines == copies


@pytest.mark.parametrize(
    ("what", "machines", "target", "caught"),
    [
        ("crash", ["worker1"], "", {"running": 1}),
        ("crash", ["worker2"], "", {"finishing": 1}),
        ("kill", ["broker"], "queue", {"queued": 1, "sent": 1}),
        ("kill", ["master1"], "scheduler", {"queued": 1}),
        ("kill", ["broker"], "load_balancer", {"running": 1, "finishing": 1}),
        ("crash", ["broker"], "", {"queued": 1, "sent": 1, "running": 1, "finishing": 1}),
    ],
)
def test_fault_hits_the_tasks_that_need_what_it_strikes(
    what: str, machines: list[str], target: str, caught: dict[str, int]
) -> None:
    tasks = [
        task(0, attempt("worker1", 5, 50, sent=3, received=4, done=51)),
        task(1, attempt("worker2", 5, 9.9, sent=3, received=4, done=12)),
        task(2, attempt("worker2", 20, 30, scheduled=8, queued=9, sent=9.5, received=19, done=31)),
        task(3, attempt("worker2", 20, 30, scheduled=8, queued=9, sent=18, received=19, done=31)),
    ]
    lines: list[Any] = [histories.begin(), client(), *tasks, event(0, what, machines, 10, 10.1, target=target)]
    found = judge(history(*lines, histories.run(), histories.end()))
    assert found.hits == [caught]


def test_two_faults_that_take_both_api_servers_away_explain_an_attempt_together() -> None:
    ran = task(0, attempt("worker2", 2, seen=60), attempt("worker2", 80, 88))
    one = event(0, "crash", ["master1"], 10, 60)
    other = event(1, "freeze", ["master2"], 12, 58)
    assert ("attempt used", "work[0]") in rules(verdict(ran, events=one))
    assert ("attempt used", "work[0]") not in rules(verdict(ran, events=[*one, *other]))


def test_lost_majority_of_the_database_explains_an_attempt() -> None:
    master = ["database", "api_server"]
    lab = {"broker": ["database"], "master1": master, "master2": master, "worker1": ["worker"], "worker2": ["worker"]}
    ran = task(0, attempt("worker2", 2, seen=60), attempt("worker2", 80, 88))
    one = event(0, "crash", ["broker"], 10, 60)
    other = event(1, "crash", ["master1"], 12, 58)
    assert ("attempt used", "work[0]") in rules(verdict(ran, events=one, machines=lab))
    assert ("attempt used", "work[0]") not in rules(verdict(ran, events=[*one, *other], machines=lab))


@pytest.mark.parametrize(
    ("what", "machines", "target", "explained"),
    [
        ("crash", ["master1"], "", True),
        ("kill", ["broker"], "load_balancer", True),
        ("crash", ["worker1"], "", False),
        ("kill", ["broker"], "queue", False),
        ("roll", [], "", False),
        ("move", [], "", False),
    ],
)
def test_request_may_fail_only_while_something_is_struck_that_it_needs(
    what: str, machines: list[str], target: str, explained: bool
) -> None:
    failed = [histories.request(second, "502") for second in (12, 13)]
    found = verdict(failed, events=event(0, what, machines, 10, 30, target=target))
    assert (("outage", "") not in rules(found)) == explained


def test_worker_that_was_cut_off_may_end_its_task_after_another_worker() -> None:
    """Airflow has given the first attempt up; the worker goes on with it when it is connected again."""
    first, second = attempt("worker2", 80, 81, number=1, committed=False), attempt("worker1", 56, 57, number=2)
    silence = event(0, "partition", ["worker2"], 37, 70, target="load_balancer")
    cut_off = task(0, second, first)
    for line in cut_off:
        if line["kind"] == "try" and line["number"] == 1:
            line["started"] = 34
    assert verdict(cut_off, events=silence).unavoidable
    assert "executed twice" not in [rule for rule, _ in rules(verdict(cut_off, events=silence))]
    other = event(0, "partition", ["worker1"], 37, 70, target="load_balancer")
    assert ("executed twice", "work[0]") in rules(verdict(cut_off, events=other))


@pytest.mark.parametrize(("machine", "peer"), [("worker1", "broker"), ("broker", "worker1")])
def test_partition_cuts_both_machines_off(machine: str, peer: str) -> None:
    found = verdict(events=event(0, "partition", [machine], 10, 30, target=peer))
    assert found.outcome == PASSED
    assert found.caught == [1]
    usual = task(90, INTERRUPTED, AGAIN)
    found = verdict(usual, events=event(0, "partition", [machine], 10, 30, target=peer))
    assert "attempt used" not in [rule for rule, _ in rules(found)]
    found = verdict(usual, events=event(0, "partition", ["worker2"], 10, 30, target="broker"))
    assert ("attempt used", "work[90]") in rules(found)


@pytest.mark.parametrize(
    ("phases", "there", "lost"),
    [
        ({1: "ok", 2: "ok", 3: "ok"}, [1, 2, 3], ""),
        ({1: "ok", 2: "unknown", 3: "ok"}, [1, 3], ""),  # nobody was told that it is there
        ({1: "ok", 2: "unknown", 3: "ok"}, [1, 2, 3], ""),
        ({1: "ok", 2: "ok", 3: "ok"}, [1], "2 commits that were acknowledged, the first is number 2"),
    ],
)
def test_acknowledged_commit_that_is_missing_is_lost(phases: dict[int, str], there: list[int], lost: str) -> None:
    commits = [
        {"at": 10.0 * number, "kind": "commit", "number": number, "phase": phase, "took": 0.5}
        for number, phase in phases.items()
    ]
    found = verdict(commits, [{"at": 94.0, "kind": "committed", "numbers": there}])
    assert [one.what for one in found.findings] == [lost] * bool(lost)
    assert (found.commits, found.write_gap) == ((3, 10.0) if "unknown" not in phases.values() else (2, 20.0))


def test_cut_from_all_others_is_a_cut_from_all_their_roles() -> None:
    silence = event(0, "partition", ["worker1"], 37, 70, target="others")
    ended_late = task(0, attempt("worker1", 56, 57, number=2), attempt("worker1", 30, 71, number=1, committed=False))
    assert "executed twice" not in [rule for rule, _ in rules(verdict(ended_late, events=silence))]


def test_gaps_are_the_longest_times_between_two_answers() -> None:
    pages = [
        {"at": at, "kind": "page", "phase": phase, "took": 0.5}
        for at, phase in ((20.0, "ok"), (20.2, "ok"), (20.4, "fail"), (23.4, "ok"))
    ]
    found = verdict(pages)
    assert (found.page_gap, found.write_gap) == (3.2, None)


def test_task_whose_lost_message_was_sent_again_waited_since_the_first_one() -> None:
    """Airflow's record has only the last time at which it was queued."""
    found = task(0, attempt("worker2", 152, 154, queued=150, sent=151, received=151.5))
    first = {"at": 17, "kind": "message", "phase": "sent", "machine": "master1", "celery": "lost"}
    known = {name: found[0][name] for name in ("run", "task", "number")}
    assert verdict(found).outcome == PASSED
    assert rules(verdict(found, [first | known])) == [("late", "work[0]")]


def test_deferred_task_that_is_resumed_late_is_late() -> None:
    def resumed(sent: float) -> list[Any]:
        """Return a task that records nothing before it is resumed."""
        found = task(0, attempt("worker2", 150, 152, queued=148, sent=4, received=4.5, done=6))
        again = {"kind": "message", "run": found[0]["run"], "task": "work[0]", "number": 1, "celery": "again"}
        moments = {"sent": sent, "received": 149}
        return [*found, *(again | {"at": at, "phase": phase, "machine": "worker2"} for phase, at in moments.items())]

    assert verdict(resumed(148)).outcome == PASSED
    assert ("late", "work[0]") in rules(verdict(resumed(50)))


PROXIED = {
    "broker": ["load_balancer", "local_proxy", "database"],
    "master1": ["load_balancer", "local_proxy", "api_server"],
    "worker1": ["worker", "local_proxy"],
    "worker2": ["worker", "local_proxy"],
}


def test_load_balancer_that_no_task_calls_explains_nothing() -> None:
    used = task(0, attempt("worker2", 5, seen=20), attempt("worker1", 40, 44))
    cut = event(0, "partition", ["worker2"], 8, 50, target="load_balancer")
    assert ("attempt used", "work[0]") in rules(verdict(used, events=cut, machines=PROXIED))
    assert ("attempt used", "work[0]") not in rules(verdict(used, events=cut))
    assert verdict(events=cut, machines=PROXIED).outcome == INCONCLUSIVE


def test_load_balancer_that_no_task_calls_is_judged_by_requests() -> None:
    killed = event(0, "kill", ["broker"], 8, 9, target="load_balancer")
    assert verdict([histories.request(8.5)], events=killed, machines=PROXIED).caught == [1]


@pytest.mark.parametrize("fields", [{}, {"machines": PROXIED}])
def test_requests_do_not_replace_the_tasks_that_a_machine_did_not_catch(fields: dict[str, Any]) -> None:
    late = event(0, "crash", ["broker"], 200, 210)
    found = verdict([histories.request(201)], events=late, **fields)
    assert (found.outcome, found.caught) == (INCONCLUSIVE, [0])


def test_commits_that_could_not_be_compared_prove_nothing() -> None:
    lines = [histories.unreadable("the numbers that were committed", "no primary")]
    assert verdict(lines).outcome == INCONCLUSIVE
