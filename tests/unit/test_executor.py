"""How the executor handles tasks and messages, with Airflow's own models in a database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import lab_executor
import pytest
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.providers.celery.executors.celery_executor_utils import ExceptionWithTraceback
from lab_executor import LabExecutor
from sqlalchemy import Engine, create_engine, insert, select
from sqlalchemy.orm import Session

from lab import evidence

ME, OTHER = 1, 2  # scheduler jobs


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A database with Airflow's tables, which the executor's sessions use."""
    from airflow.models.base import Base
    from airflow.utils.db import import_all_models

    import_all_models()
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        for job, state in ((ME, "running"), (OTHER, "failed"), (3, "success")):
            add(session, "job", id=job, state=state, job_type="SchedulerJob")
        add(
            session,
            "dag_run",
            id=1,
            dag_id="dag",
            run_id="run",
            run_type="manual",
            state="running",
            run_after=datetime.now(UTC),
        )
        session.commit()

    class Created(Session):
        def __exit__(self, *error: Any) -> None:
            self.commit()
            super().__exit__(*error)

    monkeypatch.setattr(lab_executor, "create_session", lambda: Created(engine))
    yield engine
    engine.dispose()


def add(session: Session, table: str, **values: Any) -> None:
    from airflow.models.base import Base

    found = Base.metadata.tables[table]
    needed = {
        column.name: 0 if column.type.python_type is int else "x"
        for column in found.columns
        if not column.nullable and column.default is None and column.server_default is None and not column.primary_key
    }
    session.execute(insert(found).values(**needed | values))


def queue_task(
    engine: Engine, index: int, *, job: int = ME, state: str = "queued", seconds: float = 60
) -> TaskInstanceKey:
    """Add a task instance that was queued some seconds ago with the Celery id `celery-<index>`."""
    then = datetime.now(UTC) - timedelta(seconds=seconds)
    with Session(engine) as session:
        add(
            session,
            "task_instance",
            **{"dag_id": "dag", "task_id": "task", "run_id": "run", "map_index": index},
            **{"state": state, "try_number": 1, "max_tries": 2, "queue": "default", "pool": "default_pool"},
            **{"queued_by_job_id": job, "external_executor_id": f"celery-{index}"},
            **{"queued_dttm": then, "last_heartbeat_at": then},
        )
        session.commit()
    return TaskInstanceKey("dag", "task", "run", 1, index)


def states(engine: Engine) -> dict[int, tuple[str, int]]:
    with Session(engine) as session:
        query = select(TaskInstance.map_index, TaskInstance.state, TaskInstance.try_number)
        return {index: (str(state), attempt) for index, state, attempt in session.execute(query)}


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> LabExecutor:
    executor = LabExecutor()
    executor.job_id = ME
    return executor


def hold(monkeypatch: pytest.MonkeyPatch, executor: LabExecutor, held: set[str] | None) -> None:
    monkeypatch.setattr(executor, "_held", lambda tis: held)


def test_task_whose_message_is_lost_is_queued_again_without_using_an_attempt(
    engine: Engine, executor: LabExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in (1, 2):
        queue_task(engine, index)
    queue_task(engine, 3, seconds=1)
    queue_task(engine, 4, job=OTHER)
    hold(monkeypatch, executor, {"celery-2"})
    executor.send_lost_again()
    assert set(states(engine).values()) == {("queued", 1)}  # a message may be on its way
    executor.send_lost_again()
    assert states(engine) == {1: ("scheduled", 1), 2: ("queued", 1), 3: ("queued", 1), 4: ("queued", 1)}


def test_no_message_is_declared_lost_while_the_broker_does_not_answer(
    engine: Engine, executor: LabExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue_task(engine, 1)
    hold(monkeypatch, executor, set())
    executor.send_lost_again()
    hold(monkeypatch, executor, None)
    monkeypatch.setattr(lab_executor, "last_drain_of_redis", lambda: None)
    executor.send_lost_again()
    hold(monkeypatch, executor, set())
    executor.send_lost_again()
    assert states(engine) == {1: ("queued", 1)}


def test_task_that_redis_lost_before_a_move_from_it_ended_is_queued_again(
    engine: Engine, executor: LabExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue_task(engine, 1, seconds=60)
    queue_task(engine, 2, seconds=25)  # by this scheduler, which uses RabbitMQ
    hold(monkeypatch, executor, None)
    executor.born = datetime.now(UTC) - timedelta(seconds=30)
    moved: list[datetime | None] = [None]
    monkeypatch.setattr(lab_executor, "last_drain_of_redis", lambda: moved[0])
    executor.send_lost_again()
    assert states(engine) == {1: ("queued", 1), 2: ("queued", 1)}
    moved = [datetime.now(UTC)]
    executor.send_lost_again()
    assert states(engine) == {1: ("scheduled", 1), 2: ("queued", 1)}


def test_messages_of_queues_and_of_workers_are_found() -> None:
    def message(celery_id: str) -> str:
        return json.dumps({"body": "", "headers": {"id": celery_id}})

    client = SimpleNamespace(
        lrange=lambda queue, first, last: {"default": [message("a"), message("b")]}.get(queue, []),
        hvals=lambda key: [json.dumps([json.loads(message("c")), "", "default"])],
    )
    channel = SimpleNamespace(client=client, unacked_key="unacked")
    assert set(lab_executor.message_ids(channel, ["default", "queue_1"])) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("job", "held", "state"),
    [
        pytest.param(OTHER, None, "scheduled", id="of a dead scheduler, on RabbitMQ"),
        pytest.param(3, None, "queued", id="of a scheduler that ended normally, on RabbitMQ"),
        pytest.param(OTHER, set(), "scheduled", id="without a message in Redis"),
        pytest.param(OTHER, {"celery-1"}, "queued", id="with a message in Redis"),
    ],
)
def test_task_that_may_be_unsent_is_sent_again(
    engine: Engine, executor: LabExecutor, monkeypatch: pytest.MonkeyPatch, job: int, held: set[str] | None, state: str
) -> None:
    queue_task(engine, 1, job=job)
    hold(monkeypatch, executor, held)
    monkeypatch.setattr(executor.bulk_state_fetcher, "get_many", lambda results: {})
    with Session(engine) as session:
        assert executor.try_adopt_task_instances(session.scalars(select(TaskInstance)).all()) == []
        session.commit()
    assert states(engine) == {1: (state, 1)}


def test_scheduler_that_stops_gives_back_unsent_tasks(engine: Engine, executor: LabExecutor) -> None:
    for index in (1, 2):
        queue_task(engine, index)
    with Session(engine) as session:
        (first,) = session.scalars(select(TaskInstance).where(TaskInstance.map_index == 1))
        executor.queued_tasks[first.key] = SimpleNamespace(ti=SimpleNamespace(id=first.id))  # type: ignore[assignment]
    executor.end()
    assert states(engine) == {1: ("scheduled", 1), 2: ("queued", 1)}


def test_unavailable_broker_costs_one_timeout_and_not_one_per_task(
    executor: LabExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def send(one: Any) -> Any:
        tried.append(one)
        sent = SimpleNamespace(task_id="celery-1")
        return one, None, ExceptionWithTraceback(TimeoutError(), "") if len(tried) > 1 else sent

    monkeypatch.setattr(lab_executor, "send_workload_to_executor", send)
    assert len(executor._send_workloads_to_celery(["a", "b", "c", "d"])) == 2
    assert tried == ["a", "b"]


def test_message_that_is_sent_is_logged_as_drills_read_it(
    executor: LabExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    celery_id, logged = "ba93e4e8-6fa1-4235-baf9-62cc786e015e", []
    key = TaskInstanceKey("ledger", "work", "drill-1", 2, 31)
    result = SimpleNamespace(task_id=celery_id)
    monkeypatch.setattr(lab_executor, "send_workload_to_executor", lambda one: (key, None, result))
    monkeypatch.setattr(LabExecutor, "log", SimpleNamespace(info=lambda text, *words: logged.append(text % words)))
    executor._send_workloads_to_celery(["a"])
    (line,) = [evidence.SENT.search(text) for text in logged]
    assert line
    assert line[1] == celery_id
    assert evidence._key(line[2]) == {"run": "drill-1", "task": "work[31]", "number": 2}


@pytest.mark.parametrize(
    ("seconds", "celery_id", "reported", "tracked"),
    [
        pytest.param(1, "celery-1", False, True, id="runs and sends heartbeats"),
        pytest.param(3600, "celery-1", True, False, id="sends no heartbeats"),
        pytest.param(1, "an older message", False, False, id="waits for another message"),
    ],
)
def test_failure_of_a_message_does_not_fail_a_running_task(
    engine: Engine, executor: LabExecutor, seconds: float, celery_id: str, reported: bool, tracked: bool
) -> None:
    key = queue_task(engine, 1, state="running", seconds=seconds)
    executor.workloads[key] = SimpleNamespace(task_id=celery_id)  # type: ignore[assignment]
    executor.running.add(key)
    executor.fail(key)
    assert (key in executor.event_buffer, key in executor.running) == (reported, tracked)


def test_slot_of_a_finished_task_is_freed_without_a_report_from_celery(engine: Engine, executor: LabExecutor) -> None:
    keys = [queue_task(engine, 1, state="success"), queue_task(engine, 2, state="running")]
    for key in keys:
        executor.workloads[key] = SimpleNamespace()  # type: ignore[assignment]
        executor.running.add(key)
    for _ in range(2):
        executor.forget_finished()
    assert executor.running == {keys[1]}
