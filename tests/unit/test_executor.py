"""What the executor does with the tasks of a scheduler that is gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.celery.executors.celery_executor import CeleryExecutor

from provision.roles.airflow.lab_executor import LabExecutor

BEAT = datetime(2026, 1, 1, tzinfo=UTC)


def task(state: str = "queued", after_beat: float = 1, job: str = "failed") -> Any:
    queued = BEAT + timedelta(seconds=after_beat)
    return SimpleNamespace(
        state=state,
        queued_dttm=queued,
        queued_by_job=SimpleNamespace(state=job, latest_heartbeat=BEAT),
        max_tries=2,
    )


@pytest.mark.parametrize(
    ("ti", "given_back"),
    [
        pytest.param(task(), True, id="queued since the last heartbeat"),
        pytest.param(task(after_beat=-1), False, id="sent before the last heartbeat"),
        pytest.param(task(state="running"), False, id="taken by a worker"),
        pytest.param(task(job="success"), False, id="of a scheduler that was stopped in order"),
    ],
)
def test_only_what_may_not_have_been_sent_is_given_back(
    ti: Any, given_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopted: list[Any] = []

    def adopt(_: CeleryExecutor, tis: list[Any]) -> list[Any]:
        adopted.extend(tis)
        return []

    monkeypatch.setattr(CeleryExecutor, "try_adopt_task_instances", adopt)
    assert LabExecutor().try_adopt_task_instances([ti]) == [ti] * given_back
    assert adopted == [ti] * (not given_back)
    assert ti.max_tries == 2 + given_back
