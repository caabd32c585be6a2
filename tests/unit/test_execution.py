"""A drill keeps its history, whatever goes wrong: with its events, with their undo, or with the evidence."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psycopg
import pytest

from lab import evidence, execution, faults, history, schedule
from lab.history import Line, of_kind
from lab.schedule import Event, Schedule, Work
from lab.waiting import eventually
from tests.support.shipped import SHIPPED

KILL = Schedule("a", "A", "redis", (Work("ledger", {"tasks": 2}),), (Event("kill", ("worker1",), "worker"),))


def cannot(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


class Progress(execution.Progress):
    """Knows at once that all work has ended, and that each worker runs two tasks."""

    @contextmanager
    def working(self, within: float | None = None) -> Iterator[None]:
        self.running = Counter(worker1=2, worker2=3)
        yield

    def unfinished(self) -> list[str]:
        return []

    @property
    def asked_at(self) -> float:
        return execution.time.monotonic()

    @asked_at.setter
    def asked_at(self, _: float) -> None:
        """Nothing: it has just asked."""


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A stand-in for a healthy lab. Faults do nothing, and waits take no time."""
    http = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200)), base_url="http://lab")
    airflow = SimpleNamespace(http=http, start=lambda dag, conf, run: run)
    machines = SimpleNamespace(provision=lambda **_: None)
    lab = SimpleNamespace(topology=SHIPPED, airflow=airflow, machines=machines, state=tmp_path.joinpath)
    lab.eventually = lambda check, **_: eventually(check, seconds=2, every=0.01)
    lab.seconds = lambda seconds: 0 if seconds > 5 else seconds
    monkeypatch.setattr(execution, "Progress", Progress)
    monkeypatch.setattr(execution.Commits, "working", lambda *_, **__: nullcontext())
    monkeypatch.setattr(execution, "problems", lambda _: [])
    monkeypatch.setattr(execution, "heal", lambda _: [], raising=False)
    monkeypatch.setattr(faults, "heal", lambda _: [])
    monkeypatch.setattr(evidence, "collect", lambda *_: None)
    replaced(monkeypatch, "kill")
    return lab


def replaced(monkeypatch: pytest.MonkeyPatch, what: str, **hooks: Callable[..., Any]) -> None:
    usual: dict[str, Any] = {"inject": lambda *_: None, "undo": lambda *_: []}
    monkeypatch.setitem(schedule.ACTIONS, what, replace(schedule.ACTIONS[what], **usual | hooks))


def run(lab: Any, chosen: Schedule = KILL) -> list[Line]:
    return history.read(execution.run(chosen, lab, lambda _: None))


def phases(lines: list[Line], number: int = 0) -> list[str]:
    return [line["phase"] for line in of_kind(lines, "event") if line["event"] == number]


def test_history_has_the_work_the_event_and_the_end(lab: Any) -> None:
    lines = run(lab)
    assert lines[0]["schedule"] == KILL.document() | {"works": [{"dag": "ledger", "conf": {"tasks": 2}, "at": 0}]} | {
        "events": [vars(KILL.events[0]) | {"machines": ["worker1"]}]
    }
    assert phases(lines) == ["begin", "begun", "undo", "end"]
    assert [line["phase"] for line in of_kind(lines, "client")] == ["invoke", "ok"]
    assert of_kind(lines, "healthy")
    assert not of_kind(lines, "problem")
    assert lines[-1]["kind"] == "end"


def test_event_that_cannot_be_injected_has_not_begun(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, "kill", inject=cannot(AssertionError("no such unit")))
    lines = run(lab)
    assert phases(lines) == ["begin", "failed"]
    assert "no such unit" in next(line["note"] for line in of_kind(lines, "event") if line["phase"] == "failed")


@pytest.mark.parametrize(
    "error",
    [
        subprocess.CalledProcessError(1, ["vagrant", "up", "worker1"], stderr="no room\n"),
        AssertionError("worker1 does not answer"),
        RuntimeError("Unable to connect"),
    ],
)
def test_what_cannot_be_healed_is_a_problem_of_the_history(
    lab: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(faults, "heal", cannot(error))
    (problem,) = of_kind(run(lab), "problem")
    assert problem["text"].startswith(f"a fault was not undone: {error}")


def test_lab_that_stays_unhealthy_is_a_problem(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = iter([list[str]()])
    monkeypatch.setattr(execution, "problems", lambda _: next(asked, ["worker1: worker is failed"]))
    lines = run(lab)
    (problem,) = of_kind(lines, "problem")
    assert problem["text"] == "the lab did not recover: not within 2 s: worker1: worker is failed"
    assert not of_kind(lines, "healthy")


def test_drill_does_not_start_on_an_unhealthy_lab(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "problems", lambda _: ["worker1: does not answer"])
    with pytest.raises(AssertionError, match="worker1: does not answer"):
        run(lab)


def test_lab_moves_to_the_broker_of_the_schedule_first(lab: Any) -> None:
    moves: list[dict[str, str]] = []
    lab.machines.provision = lambda **choices: moves.append(choices)
    run(lab, replace(KILL, broker="rabbitmq"))
    assert moves == [{"BROKER": "rabbitmq"}]


def test_change_that_fails_is_made_again_when_the_faults_are_undone(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def heal(_: Any) -> list[str]:
        calls.append("heal")
        return []

    monkeypatch.setattr(faults, "heal", heal)
    lab.machines.provision = lambda **_: calls.append("provision")
    replaced(monkeypatch, "roll", inject=cannot(subprocess.CalledProcessError(1, ["vagrant", "provision"])))
    lines = run(lab, replace(KILL, events=(Event("roll"),)))
    assert phases(lines) == ["begin", "begun", "failed", "end"]
    assert calls == ["heal", "provision"]


@pytest.mark.parametrize(
    ("error", "phase"),
    [
        (httpx.ConnectError("refused"), "fail"),
        (httpx.HTTPStatusError("404", request=httpx.Request("POST", "/"), response=httpx.Response(404)), "fail"),
        (httpx.HTTPStatusError("502", request=httpx.Request("POST", "/"), response=httpx.Response(502)), "unknown"),
        (httpx.ReadTimeout("no answer"), "unknown"),
    ],
)
def test_trigger_without_an_answer_is_unknown(lab: Any, error: Exception, phase: str) -> None:
    lab.airflow.start = cannot(error)
    assert [line["phase"] for line in of_kind(run(lab), "client")] == ["invoke", phase]


def test_second_event_waits_for_the_first(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    second = Event("restart", ("master1",), "scheduler", moment="event")
    lab.seconds = float  # the time that the second waits, too
    replaced(monkeypatch, "kill", inject=lambda *_: time.sleep(0.3))
    replaced(monkeypatch, "restart")
    lines = run(lab, replace(KILL, events=(*KILL.events, second)))
    at = {(line["event"], line["phase"]): line["at"] for line in of_kind(lines, "event")}
    assert at[0, "begun"] <= at[1, "begin"]


def test_busiest_worker_is_named_in_the_history(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    struck: list[str] = []
    replaced(monkeypatch, "kill", inject=lambda lab, name, _: struck.append(name))
    event = Event("kill", (schedule.BUSIEST,), "worker")
    lines = run(lab, replace(KILL, events=(event,)))
    assert struck == ["worker2"]
    assert of_kind(lines, "event")[0]["machines"] == ["worker2"]


def test_undo_does_not_wait_for_a_change_which_may_wait_for_it(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is frozen while `vagrant provision` works on it is thawed."""
    running = execution.Execution(KILL, lab, None, print, None)  # type: ignore[arg-type]
    undone: list[str] = []
    replaced(monkeypatch, "freeze", undo=lambda lab, names: undone.extend(names))
    with running.changing:
        running.undo(Event("freeze", ("master1",)))
    assert undone == ["master1"]


def test_evidence_that_cannot_be_read_is_named(lab: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(evidence, "journals", lambda *_: None)
    lab.connect = cannot(psycopg.OperationalError("connection refused"))
    written = history.History(tmp_path / "evidence")
    written.write("begin", at=0)
    evidence.collect(lab, written, {"run": "ledger"})
    unreadable = {line["what"]: line["error"] for line in of_kind(written.lines(), "unreadable")}
    expected = ("Airflow's records of the runs", "the records of the tasks", "the numbers that were committed")
    assert unreadable == dict.fromkeys(expected, "OperationalError: connection refused")


def test_lab_that_is_kept_is_not_healed(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "heal", cannot(AssertionError("it must be left as it is")))
    lines = history.read(execution.run(KILL, lab, lambda _: None, keep=True))
    assert not of_kind(lines, "problem")


def test_event_whose_undo_fails_ends_when_the_lab_is_healed(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, "kill", undo=cannot(AssertionError("no answer")))
    assert phases(run(lab)) == ["begin", "begun", "undo", "failed", "end"]


def test_undo_is_tried_again_while_another_vagrant_works_on_the_machine(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([subprocess.CalledProcessError(1, ["vagrant", "up", "worker1"]), ["worker1 up"]])

    def undo(*_: Any) -> Any:
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    replaced(monkeypatch, "kill", undo=undo)
    (end,) = [line for line in of_kind(run(lab), "event") if line["phase"] == "end"]
    assert end["note"] == "worker1 up"


def test_work_that_does_not_go_on_is_given_up(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing happens any more: the drill does not wait until the time for the work is over."""
    monkeypatch.setattr(Progress, "unfinished", lambda self: self.accepted)
    monkeypatch.setattr(Progress, "words", lambda _: "4 queued")
    given_up: list[str] = []
    lab.airflow.give_up = lambda dag, _: given_up.append(dag)
    lines = run(lab)
    assert given_up == ["ledger"]
    (found,) = of_kind(lines, "problem")
    assert found["text"] == "the work did not end: nothing has happened for 90 s: 4 queued"
