"""Drills on the DAGs of users: what they declare, the verdict on their tasks, and the advice."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from lab import own
from lab.client import Airflow
from lab.history import Line
from lab.judge import FAILED, INCONCLUSIVE, PASSED
from lab.own import Own, OwnError, OwnVerdict, check, drills_in, judge
from tests.support import ROOT, histories
from tests.support.histories import attempt, client, event, history, task

CRASH = event(0, "crash", ["worker1"], 110, 140)
BASE = "drill-undisturbed"
LOST = attempt("worker1", 105, seen=109)
AGAIN = attempt("worker2", 128, 134)


def verdict(*lines: Line | Iterable[Line], events: Iterable[Line] = CRASH, state: str = "success") -> OwnVerdict:
    """Judge a DAG whose undisturbed run took 30 s, and whose run under the events took 50 s."""
    baseline = [*client(1, run=BASE, baseline=True), *task("load", attempt("worker1", 5, 11), run=BASE)]
    runs = [histories.run(run=BASE, ended=30.3), histories.run(state, ended=150) | {"started": 100}]
    return judge(history(histories.begin(own="mine"), baseline, client(100), *lines, events, runs, histories.end()))


def checked(*problems: str) -> Line:
    return {"at": 160, "kind": "check", "problems": [*problems]}


def test_interrupted_task_that_succeeds_again_survives() -> None:
    found = verdict(task("load", LOST, AGAIN), task("report", attempt("worker2", 140, 141)))
    assert (found.outcome, found.findings, found.delay) == (PASSED, [], 20.0)
    (row,) = found.tasks_table
    assert (row["task"], row["attempts"], row["state"], len(row["interrupted"])) == ("load", 2, "success", 1)
    assert [text for text in found.advice if "find out with --check" in text]


def test_check_that_finds_nothing_gives_no_advice_about_writes() -> None:
    assert not verdict(task("load", LOST, AGAIN), checked()).advice


def test_check_turns_executed_again_into_harm() -> None:
    found = verdict(task("load", LOST, AGAIN), checked("north 3: 2 times"))
    assert (found.outcome, [str(one) for one in found.findings]) == (FAILED, ["did harm: north 3: 2 times"])
    assert "load: executed again, which did harm" in found.advice[0]


def test_task_without_retries_fails_and_the_advice_is_to_have_some() -> None:
    lost = task("load", LOST | {"state": "failed"})
    lost[-1]["retries"] = 0
    found = verdict(lost, state="failed")
    assert [(one.rule, one.task) for one in found.findings] == [("no retries left", "load"), ("failed", "")]
    assert "load: retries = 0 is not enough" in found.advice[0]


def test_two_attempts_at_the_same_time_are_seen_in_the_journal_of_the_worker() -> None:
    frozen = attempt("worker1", 105, seen=109, sent=103, received=104, done=133)
    found = verdict(task("load", frozen, AGAIN), events=event(0, "freeze", ["worker1"], 110, 130))
    assert found.tasks_table[0]["overlap"] == 5.0
    assert [text for text in found.advice if "two attempts ran at the same time (5 s)" in text]


def test_lost_work_and_a_long_delay_are_named() -> None:
    found = verdict(task("load", attempt("worker1", 10, seen=109), attempt("worker2", 330, 334)))
    assert [text.partition(": ")[2].partition(".")[0] for text in found.advice[1:]] == [
        "an interruption cost 114 s of work",
        "the next attempt started 206 s later",
    ]


def test_failure_that_no_fault_explains_is_the_dags_own() -> None:
    found = verdict(task("load", attempt("worker2", 105, seen=107), AGAIN), task("other", LOST, AGAIN))
    assert [text for text in found.advice if text.startswith("load: an attempt failed that no fault explains")]


def test_fault_that_caught_no_task_of_the_dag_is_inconclusive() -> None:
    found = verdict(task("load", attempt("worker2", 128, 134)))
    assert found.outcome == INCONCLUSIVE
    assert "no fault caught a task of this DAG" in found.unknown[-1]


def test_advice_is_given_once_for_all_tasks_that_it_is_for() -> None:
    found = verdict(*(task(f"load[{number}]", LOST, AGAIN) for number in range(6)))
    assert [text.partition(":")[0] for text in found.advice] == ["load[0], load[1], load[2] and 3 more"]


def test_drills_of_the_shipped_dags_are_read() -> None:
    found = drills_in(ROOT / "dags")
    assert {name: (one.dag, one.drill) for name, one in found.items()} == {
        "append-orders": ("append_orders", "worker-crash"),
        "merge-orders": ("merge_orders", "worker-crash"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a", "mine.toml: "),
        ("[a]\ndrill = 'worker-crash'", r"mine.toml: \[a\]: a drill is a table with the key dag"),
        ("a = 3", r"mine.toml: \[a\]: a drill is a table"),
        ("[a]\ndag = 'b'\ncolour = 'red'", "unknown key colour; allowed: dag, conf, title, drill, seed"),
        ("[a]\ndag = 'b'\nseed = 'many'", "seed: 'many' is not of type int"),
    ],
)
def test_file_with_a_mistake_is_refused_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(OwnError, match=message):
        drills_in(tmp_path)


def answers(monkeypatch: pytest.MonkeyPatch, rows: list[list[object]]) -> Any:
    monkeypatch.setattr(own, "script", lambda *words: f"noise\nrows: {json.dumps(rows)}\n")
    return SimpleNamespace(topology=SimpleNamespace(with_role=lambda _: [SimpleNamespace(name="master1")]))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [([["a", 1], ["b", 1]], []), ([["a", 1], ["b", 2]], ["b: 2 times"]), ([], ["no rows"])],
)
def test_check_in_sql_expects_each_count_to_be_one(
    monkeypatch: pytest.MonkeyPatch, rows: list[list[object]], expected: list[str]
) -> None:
    assert check(answers(monkeypatch, rows), Own("mine", check="SELECT 1"), "run") == expected


def test_check_in_python_gets_the_run_and_a_way_to_query(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def check(run_id, query):\n    return [f'{run_id}: {row}' for row in query('SELECT 1')]\n")
    lab = answers(monkeypatch, [["a", 1]])
    assert check(lab, Own("mine", check=str(path)), "run") == ["run: ['a', 1]"]
    path.write_text("")
    with pytest.raises(OwnError, match=r"it needs a function check\(run_id, query\)"):
        check(lab, Own("mine", check=str(path)), "run")
    with pytest.raises(OwnError, match="the file does not exist"):
        check(lab, Own("mine", check=str(tmp_path / "none.py")), "run")


def airflow(status: int, broken: bool = False) -> Airflow:
    """Return a client of an Airflow that knows the DAG `other` and has a file that cannot be imported."""
    answers = {
        "/api/v2/importErrors": {
            "import_errors": [{"filename": "mine.py", "stack_trace": "…\nNameError: x\n"}][:broken]
        },
        "/api/v2/dags": {"dags": [{"dag_id": "other"}]},
    }

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/v2/dags/mine":
            return httpx.Response(status, json={"has_import_errors": broken})
        return httpx.Response(200, json=answers[request.url.path])

    client = Airflow("http://lab", "", "a token")
    client.http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://lab")
    return client


@pytest.mark.parametrize(
    ("status", "broken", "message"),
    [
        (404, False, "does not have a DAG 'mine' that works: it knows other"),
        (404, True, "files that cannot be imported: mine.py: NameError: x"),
        (200, True, "files that cannot be imported: mine.py: NameError: x"),
    ],
)
def test_dag_that_is_missing_or_broken_is_refused_with_the_reason(status: int, broken: bool, message: str) -> None:
    with pytest.raises(OwnError, match=message):
        own.wait_for_dag(airflow(status, broken), "mine", seconds=0)


def test_dag_that_airflow_knows_is_drilled() -> None:
    own.wait_for_dag(airflow(200), "mine", seconds=0)


def test_run_that_airflow_accepted_and_does_not_know_is_lost() -> None:
    lines = [histories.begin(own="mine"), *client(), *event(0, "crash", ["worker1"], 8, 20)]
    assert judge(history(*lines)).outcome == FAILED
    assert judge(history(*lines, histories.unreadable("Airflow's records", "no answer"))).outcome == INCONCLUSIVE
