"""Airflow's CeleryExecutor, extended for four failures that it does not handle. The methods give the details.

- The message of a queued task was never sent, or was lost with Redis or a worker: it is sent again.
- A scheduler stops, or dies, between queueing and sending: another scheduler sends the messages.
- The broker is unavailable: the scheduler's loop does not wait a second for each task.
- Heartbeats are late because the path from the tasks to the database was down: the tasks are not declared lost.

A task may thus get a second message. That is harmless: the api-server lets a queued task start only once.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
from airflow.configuration import conf
from airflow.jobs.job import JobState
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.providers.celery.executors.celery_executor import CeleryExecutor
from airflow.providers.celery.executors.celery_executor_utils import ExceptionWithTraceback, send_workload_to_executor
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from heartbeat_path import HeartbeatPath
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from sqlalchemy import NullPool, Select, create_engine, make_url, select, text, tuple_, update
from sqlalchemy.orm import Session

TIME_FACTOR = int(os.environ.get("LAB_TIME_FACTOR", "1"))  # airflow.env has it
CHECK_INTERVAL = (
    5 * TIME_FACTOR
)  # seconds between two searches for lost messages; a message is lost if two searches do not find it
SETTLED = 10 * TIME_FACTOR  # seconds after which a queued task must have a message
AT_WORK = (TaskInstanceState.QUEUED, TaskInstanceState.RUNNING, TaskInstanceState.RESTARTING)


class LabExecutor(CeleryExecutor):
    """CeleryExecutor for a cluster in which every part may fail at any moment."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.born = datetime.now(UTC)
        self.checked = time.monotonic()
        self.suspects: set[str] = set()  # Celery ids without a message at the last search
        self.finished: set[TaskInstanceKey] = set()  # keys whose task had finished at the last search

    def start(self) -> None:
        super().start()
        watch_heartbeat_path()

    def sync(self) -> None:
        super().sync()
        if time.monotonic() - self.checked > CHECK_INTERVAL:
            self.send_lost_again()
            self.forget_finished()
            self.checked = time.monotonic()

    def end(self, synchronous: bool = False) -> None:
        """Give back tasks that were not sent: no scheduler searches for those of a scheduler that ended normally."""
        with create_session() as session:
            give_back(session, [workload.ti.id for workload in self.queued_tasks.values()])
        self.queued_tasks.clear()
        super().end(synchronous)

    def _send_workloads_to_celery(self, workload_tuples_to_send: Sequence[Any]) -> list[Any]:
        """Send workloads until one fails: an unavailable broker delays the loop by one `operation_timeout` in total.

        Workloads that are not sent stay queued in the executor. The next loop sends them. The log has a line for each
        message: drills read there when a task was sent.
        """
        results = []
        for one in workload_tuples_to_send:
            results.append(send_workload_to_executor(one))
            key, _, result = results[-1]
            if isinstance(result, ExceptionWithTraceback):
                break
            self.log.info("sent %s: %r", result.task_id, key)
        return results

    def fail(self, key: Any, info: Any = None) -> None:
        """Report a failure in Celery, unless the task is not affected by it.

        A message that is delivered twice may fail, for example because its token has expired, while the task runs on
        another worker. The heartbeats of the task show that. The message may also be an earlier one of the task.
        """
        result = self.workloads.get(key)
        if result and isinstance(key, TaskInstanceKey):
            with create_session() as session:
                ti = session.scalar(find([key]))
                if ti and ti.try_number == key.try_number:
                    if ti.external_executor_id != result.task_id:
                        self._forget(key)
                        return
                    if ti.state == TaskInstanceState.RUNNING and is_alive(ti.last_heartbeat_at):
                        return
        super().fail(key, info)

    def try_adopt_task_instances(self, tis: Sequence[TaskInstance]) -> Sequence[TaskInstance]:
        """Return the tasks of other schedulers that Airflow has to reset. Those that may be unsent are sent again.

        CeleryExecutor waits for their messages until `task_queued_timeout` (apache/airflow#65594).
        """
        queued = [ti for ti in tis if ti.state == TaskInstanceState.QUEUED]
        held = self._held(queued) if queued else None
        for ti in queued:
            # RabbitMQ does not list its messages. A scheduler that ended normally has no unsent tasks.
            unsent = ti.queued_by_job.state == JobState.FAILED if held is None else ti.external_executor_id not in held
            if unsent:
                ti.state = TaskInstanceState.SCHEDULED
                ti.scheduled_dttm = datetime.now(UTC)
        adoptable = [ti for ti in tis if ti.state != TaskInstanceState.SCHEDULED]
        return super().try_adopt_task_instances(adoptable) if adoptable else []

    def send_lost_again(self) -> None:
        """Queue tasks of this scheduler again if Redis does not have their messages.

        In a crash, Redis loses the writes of the last second. A message is also lost if a worker dies after it took the
        message from the queue and before it recorded that it holds the message. RabbitMQ does not list its messages. A
        task that an earlier scheduler queued before a move from Redis ended, and that is still queued, was lost there.
        """
        waiting = {workload.ti.id for workload in self.queued_tasks.values()}
        with create_session() as session:
            query = select(TaskInstance).where(
                TaskInstance.state == TaskInstanceState.QUEUED,
                TaskInstance.queued_by_job_id == self.job_id,
                TaskInstance.queued_dttm < datetime.now(UTC) - timedelta(seconds=SETTLED),
            )
            tis = [ti for ti in session.scalars(query) if ti.id not in waiting]
            held = self._held(tis) if tis else None
            drained = last_drain_of_redis() if tis and held is None else None
            missing = {str(ti.external_executor_id): ti for ti in tis if ti.external_executor_id not in (held or ())}
            if held is None:
                lost = [ti for ti in tis if drained and ti.queued_dttm and ti.queued_dttm < min(drained, self.born)]
            else:
                lost = [ti for celery_id, ti in missing.items() if celery_id in self.suspects]
            self.suspects = set() if held is None else set(missing)
            for ti in lost:
                self.log.warning("%s is queued, but its message is lost: sending it again", ti)
                self._forget(ti.key)
            give_back(session, [ti.id for ti in lost])

    def forget_finished(self) -> None:
        """Free the slots of tasks that have finished and whose end Celery does not report.

        Celery reports nothing about a message that was ignored because its task was already running.
        """
        keys = [key for key in self.workloads if isinstance(key, TaskInstanceKey)]
        if not keys:
            return
        with create_session() as session:
            tis = session.scalars(find(keys))
            at_work = {ti.key for ti in tis if ti.state in AT_WORK}
        finished = {key for key in keys if key not in at_work}
        for key in finished & self.finished:
            self._forget(key)
        self.finished = finished

    def _forget(self, key: TaskInstanceKey) -> None:
        self.workloads.pop(key, None)
        self.running.discard(key)

    def _held(self, tis: Collection[TaskInstance]) -> set[str] | None:
        """Return the Celery ids whose messages Redis has; None if the broker is not Redis or does not answer."""
        queues = {str(ti.queue) for ti in tis}
        try:
            with self.celery_app.connection_for_read() as connection:
                if connection.transport.driver_type != "redis":
                    return None
                return set(message_ids(connection.default_channel, queues))
        except (OperationalError, RedisError, OSError):
            return None


def message_ids(channel: Any, queues: Iterable[str]) -> Iterator[str]:
    """Return the Celery ids of all messages in `queues`, and of those that workers have received."""
    for queue in queues:
        for message in channel.client.lrange(queue, 0, -1):
            yield json.loads(message)["headers"]["id"]
    for held in channel.client.hvals(channel.unacked_key):
        yield json.loads(held)[0]["headers"]["id"]


def last_drain_of_redis() -> datetime | None:
    """Return when the last move from Redis has ended; None if there was none."""
    url = make_url(conf.get_mandatory_value("database", "sql_alchemy_conn")).set(database="lab")
    with create_engine(url, poolclass=NullPool).connect() as connection:
        return connection.execute(text("SELECT max(at) FROM drains WHERE broker = 'redis'")).scalar()


def find(keys: Collection[TaskInstanceKey]) -> Select[Any]:
    """Return the query for the task instances of `keys`, for any attempt."""
    columns = tuple_(TaskInstance.dag_id, TaskInstance.run_id, TaskInstance.task_id, TaskInstance.map_index)
    return select(TaskInstance).where(
        columns.in_([(key.dag_id, key.run_id, key.task_id, key.map_index) for key in keys])
    )


def give_back(session: Session, ids: Sequence[UUID]) -> None:
    """Reset queued task instances, so that a scheduler queues them again; this does not use up an attempt."""
    if ids:
        values = {"state": TaskInstanceState.SCHEDULED, "queued_dttm": None, "scheduled_dttm": datetime.now(UTC)}
        query = update(TaskInstance).where(TaskInstance.id.in_(ids), TaskInstance.state == TaskInstanceState.QUEUED)
        session.execute(query.values(queued_by_job_id=None, **values).execution_options(synchronize_session=False))


def is_alive(last_heartbeat: datetime | None) -> bool:
    """Return whether a task's last heartbeat is not older than the scheduler allows."""
    timeout = timedelta(seconds=conf.getint("scheduler", "task_instance_heartbeat_timeout"))
    return bool(last_heartbeat and datetime.now(UTC) - last_heartbeat < timeout)


def watch_heartbeat_path() -> None:
    """Let this process's scheduler count the silence of a task only while its heartbeats could have arrived.

    Airflow 3.3 does not have an option or a method of the executor for this, so this replaces a private method.
    """
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    url = f"{conf.get_mandatory_value('core', 'execution_api_server_url')}health"
    wait = conf.getint("workers", "execution_api_timeout")
    engine = create_engine(conf.get_mandatory_value("database", "sql_alchemy_conn"), pool_size=1, max_overflow=0)
    client = httpx.Client(timeout=wait, trust_env=False)

    def probe() -> None:
        client.get(url).raise_for_status()
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    path = HeartbeatPath(probe, longest=wait + 1, settle=conf.getint("workers", "execution_api_retry_wait_max"))
    path.start()
    find = SchedulerJobRunner._find_task_instances_without_heartbeats

    def find_lost(runner: SchedulerJobRunner, *, session: Session) -> list[TaskInstance]:
        timeout = timedelta(seconds=runner._task_instance_heartbeat_timeout_secs)
        late, now = find(runner, session=session), datetime.now(UTC)
        lost = [ti for ti in late if ti.last_heartbeat_at and path.silence(ti.last_heartbeat_at, now) > timeout]
        if spared := len(late) - len(lost):
            runner.log.warning("Not failing %d of them: their heartbeats could not have arrived", spared)
        return lost

    SchedulerJobRunner._find_task_instances_without_heartbeats = find_lost  # type: ignore[method-assign, assignment]
