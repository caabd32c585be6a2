"""The story of a drill: what its history says in words."""

from __future__ import annotations

import pytest

from lab import changes, evidence, faults
from lab.history import Line
from lab.story import CHANGES, FAULTS, LIMIT, TOGETHER, counted, story
from tests.support.histories import (
    attempt,
    begin,
    client,
    end,
    event,
    history,
    journal,
    problem,
    request,
    run,
    schedule,
    task,
    worker_crash,
)

MISSES = "misses the heartbeats of tasks"
LOST = "has lost the connection to the broker"


def told(*parts: Line | list[Line]) -> list[str]:
    """Return the story of a history, without the trigger of its run."""
    return [str(beat) for beat in story(history(begin(), client(), *parts, end()))][1:]


def test_crash_of_a_worker_is_told_from_the_trigger_to_the_healthy_lab() -> None:
    assert [str(beat) for beat in story(worker_crash(failing=(11, 12, 14)))] == [
        "0.2 s the run of ledger is triggered (tasks 32, seconds 6)",
        "10.0 s worker1 loses power, with 8 tasks running and 3 received",
        "11.0 s the first request through nginx fails: ReadTimeout",
        "14.0 s the last of 3 failed requests through nginx",
        "26.1 s master2: the scheduler misses the heartbeats of 8 tasks",
        "28.0 s the first of 8 interrupted tasks runs again on worker2",
        "35.0 s the last of the 8 interrupted tasks runs again on worker2",
        "41.5 s the run of ledger has ended: success",
        "45.0 s worker1 is up again",
        "49.0 s the lab is healthy again",
    ]


def test_each_beat_names_its_machine() -> None:
    machines = {beat.text: beat.machine for beat in story(worker_crash())}
    assert machines["worker1 is up again"] == "worker1"
    assert machines["the lab is healthy again"] == ""


def test_every_fault_and_change_has_words() -> None:
    assert FAULTS.keys() == faults.FAULTS.keys()
    assert CHANGES.keys() == changes.CHANGES.keys()


def test_what_services_do_together_are_sayings_of_the_journals() -> None:
    assert set(TOGETHER) <= evidence.SAYINGS.keys()


@pytest.mark.parametrize(
    ("what", "machines", "target", "texts"),
    [
        ("kill", ["master1"], "scheduler", ["master1: the scheduler is killed, with 1 task queued"]),
        (
            "restart",
            ["master1", "master2"],
            "api-server",
            ["master1 and master2: the api-server is restarted, while no task needs it"],
        ),
        (
            "partition",
            ["worker1"],
            "broker,nginx",
            [
                "worker1 is cut off from broker and nginx, with 1 task queued",
                "worker1 is connected to broker and nginx again",
            ],
        ),
        (
            "freeze",
            ["master1", "master2"],
            "",
            ["master1 and master2 freeze, with 1 task queued", "master1 and master2 run again"],
        ),
        ("join", ["worker3"], "", ["worker3 joins", "worker3 has left"]),
        (
            "roll",
            [],
            "",
            ["a changed setting rolls through the lab, with 1 task queued", "the changed setting is in use everywhere"],
        ),
    ],
)
def test_event_is_a_sentence(what: str, machines: list[str], target: str, texts: list[str]) -> None:
    queued = task(0, attempt("worker2", 12, 13, queued=5))
    assert told(queued, event(0, what, machines, 10, 20, target))[: len(texts)] == [
        f"{at} s {text}" for at, text in zip(("10.0", "20.0"), texts, strict=False)
    ]


def test_move_names_the_new_broker() -> None:
    assert told(event(0, "move", [], 10, 20, note="rabbitmq"))[-1] == "20.0 s the lab works with rabbitmq"


def test_fault_of_all_machines_is_one_sentence() -> None:
    assert told(event(0, "crash", ["all"], 10, 20))[0].startswith("10.0 s every machine loses power")


def test_event_that_fails_says_why() -> None:
    began, _, undo, _ = event(0, "join", ["worker3"], 10, 20)
    failed = undo | {"phase": "failed", "note": "no memory\nand a traceback"}
    assert told([began, failed]) == ["19.9 s join worker3 fails: no memory"]


def test_tasks_that_had_ended_and_run_again_are_told() -> None:
    again = [task(number, attempt("worker1", 5, 9.9), attempt("worker2", 30, 34)) for number in range(2)]
    assert told(*again) == ["30.0 s 2 tasks that had ended run again on worker2"]


def test_tasks_of_each_event_are_told_apart() -> None:
    first = task(0, attempt("worker1", 5), attempt("worker2", 30, 34))
    second = task(1, attempt("worker2", 40), attempt("worker1", 70, 74))
    found = told(first, second, event(0, "crash", ["worker1"], 10, 20), event(1, "kill", ["worker2"], 50, 50, "worker"))
    assert "30.0 s the interrupted task runs again on worker2" in found
    assert "70.0 s the interrupted task runs again on worker1" in found


def test_task_that_records_nothing_is_retried() -> None:
    retried = task("load", attempt("worker1", 5), attempt("worker2", 30, 34))
    assert "30.0 s the task that Airflow retries runs again on worker2" in told(retried)


def test_runs_of_a_dag_have_numbers() -> None:
    found = told(client(5, "unknown", "drill-1", error="ReadTimeout"), run("failed", 30), run(ended=31, run="drill-1"))
    assert found == [
        "5.0 s no answer comes to the trigger of run 2 of ledger: ReadTimeout",
        "30.0 s run 1 of ledger has ended: failed",
        "31.0 s run 2 of ledger has ended: success",
    ]


def test_trigger_names_the_settings_of_its_work_in_order() -> None:
    works = [{"dag": "b", "conf": {"tasks": 2}, "at": 5}, {"dag": "a", "conf": {}, "at": 0}]
    parts = [client(0.2, dag="a", baseline=True), client(1, dag="a", run="r1"), client(6, dag="b", run="r2")]
    found = story(history(begin(schedule=schedule(works=works)), *parts))
    assert [beat.text for beat in found] == [
        "run 1 of a is triggered, without faults, to compare",
        "run 2 of a is triggered",
        "the run of b is triggered (tasks 2)",
    ]


def test_problem_of_the_lab_is_told() -> None:
    assert told(problem("the lab did not recover: worker1 is off\nmore"))[0].endswith("recover: worker1 is off")


def test_one_failed_request_is_one_beat() -> None:
    assert told([request(1), request(2, "502"), request(3)]) == ["2.0 s one request through nginx fails: 502"]


def test_equal_lines_of_a_journal_are_one_beat_with_the_sum() -> None:
    lines = [journal(10, "master1", MISSES, count=5), journal(11, "master1", MISSES, count=3)]
    later = [journal(10.5, "master2", MISSES, count=2), journal(15, "master1", MISSES)]
    assert told(*lines, *later) == [
        "10.0 s master1: the scheduler misses the heartbeats of 8 tasks",
        "10.5 s master2: the scheduler misses the heartbeats of 2 tasks",
        "15.0 s master1: the scheduler misses the heartbeats of 1 task",
    ]


def test_lost_connections_of_several_machines_are_one_beat() -> None:
    lines = [
        journal(10, "worker1", LOST, "worker-2"),
        journal(11, "worker2", LOST, "worker"),
        journal(11, "worker2", LOST),
    ]
    assert told(*lines) == [
        "10.0 s worker1 and worker2: the workers and the scheduler have lost the connection to the broker"
    ]


@pytest.mark.parametrize(
    ("what", "count", "text"),
    [
        ("finds that schedulers are dead", 1, "finds that 1 scheduler is dead"),
        ("finds that schedulers are dead", 2, "finds that 2 schedulers are dead"),
        ("restarts a stalled consumer", 1, "restarts a stalled consumer"),
        ("restarts a stalled consumer", 3, "restarts a stalled consumer (3 times)"),
    ],
)
def test_number_is_in_the_sentence(what: str, count: int, text: str) -> None:
    assert counted(what, count) == text


def test_messages_that_workers_ignore_are_told() -> None:
    ignored = [task(number, attempt("worker2", 5, 20, received=5, ignored=12)) for number in range(2)]
    assert told(*ignored) == ["12.0 s worker2: the worker ignores the messages of 2 tasks that run already"]


def test_story_stays_short_while_the_journals_repeat_themselves() -> None:
    noise = [journal(10 + second * 4, f"master{1 + second % 2}", LOST) for second in range(60)]
    found = told(*noise, event(0, "crash", ["broker"], 10, 250))
    assert len(found) <= LIMIT
    assert found[1].endswith("the schedulers have lost the connection to the broker, until 246.0 s")


def test_story_stays_short_whatever_the_journals_say() -> None:
    noise = [journal(second * 100, "master1", what, count=1) for second in range(60) for what in (MISSES, LOST)]
    found = told(*noise, event(0, "crash", ["broker"], 10, 250))
    assert len(found) <= LIMIT
    assert any("broker loses power" in text for text in found)
    assert any("more entries, in history.jsonl" in text for text in found)
