"""A drill keeps its record if its fault cannot be undone or its work cannot be judged."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psycopg
import pytest

from lab import drills, report
from tests.support.drill_records import entry
from tests.support.shipped import SHIPPED

TASKS = [{"task_id": "work", "map_index": 0, "state": "success"}]


def ended(_: str) -> dict[str, Any]:
    return {"state": "success"}


def cannot(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for Airflow whose only run has one successful task. Faults do nothing, and waits take no time."""
    http = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200)), base_url="http://lab")
    airflow = SimpleNamespace(http=http, trigger=lambda *_, **__: "run", get=ended, tasks=lambda *_: TASKS)
    airflow.counts = lambda *_: "1 success"
    airflow.given_up = []
    airflow.give_up = lambda *words: airflow.given_up.append(words)
    monkeypatch.setattr(drills, "_reached", lambda *_: None)
    monkeypatch.setattr(drills, "problems", lambda _: [])
    monkeypatch.setattr(drills, "FAULTS", {"kill": SimpleNamespace(inject=lambda *_: None)})
    monkeypatch.setattr(drills.ledger, "read", lambda *_: [entry(0, 1, 0, 5)])
    monkeypatch.setattr(drills, "heal", lambda _: ["worker1 started"])
    return airflow


def run(airflow: SimpleNamespace, connect: Callable[[], Any] = nullcontext) -> drills.Record:
    lab: Any = SimpleNamespace(topology=SHIPPED, airflow=airflow, connect=connect)
    lab.eventually, lab.seconds = lambda check, **_: check(), lambda seconds: seconds
    return drills.run("worker-kill", lab, lambda _: None)


def test_drill_without_problems_passes(airflow: SimpleNamespace) -> None:
    record = run(airflow)
    assert record.passed, record.problems
    assert record.healed_at
    assert record.healthy_at


@pytest.mark.parametrize(
    "error",
    [
        subprocess.CalledProcessError(1, ["vagrant", "up", "worker1"], stderr="no room\n"),
        subprocess.CalledProcessError(1, ["docker", "unpause"]),
        AssertionError("worker1 does not answer"),
        RuntimeError("Unable to connect"),
    ],
)
def test_fault_that_cannot_be_undone_fails_the_drill_and_keeps_its_record(
    airflow: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(drills, "heal", cannot(error))
    record = run(airflow)
    assert not record.passed
    assert not record.healed_at
    assert record.fault_at
    assert len(record.attempts) == 1
    assert record.problems == [f"the fault was not undone: {error} {getattr(error, 'stderr', None) or ''}".strip()]


def test_work_that_cannot_be_judged_fails_the_drill_and_keeps_its_record(
    airflow: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(drills, "heal", cannot(AssertionError("broker does not answer")))
    record = run(airflow, connect=cannot(psycopg.OperationalError("connection refused")))
    assert not record.passed
    assert [problem.partition(":")[0] for problem in record.problems] == [
        "the fault was not undone",
        "the work was not judged",
    ]
    assert "the fault was not undone: broker does not answer" in report.write(record, tmp_path).read_text()


def test_run_that_cannot_be_given_up_keeps_its_record(airflow: SimpleNamespace) -> None:
    airflow.get = lambda _: {"state": "running"}
    airflow.give_up = cannot(httpx.ConnectError("refused"))
    record = run(airflow)
    assert not record.ended_at
    assert [problem.partition(":")[0] for problem in record.problems] == [
        "the lab did not recover",
        "the run was not ended",
    ]


def test_fault_that_cannot_be_injected_is_undone_and_ends_the_drill(
    airflow: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    undone = []
    monkeypatch.setattr(drills, "heal", lambda lab: undone.append(lab))
    monkeypatch.setattr(drills, "FAULTS", {"kill": SimpleNamespace(inject=cannot(AssertionError("no such unit")))})
    with pytest.raises(AssertionError, match="no such unit"):
        run(airflow)
    assert len(undone) == 1
