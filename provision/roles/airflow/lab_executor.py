"""Airflow's CeleryExecutor, and one case more: a scheduler that dies before it has sent what it queued."""

from collections.abc import Sequence

from airflow.jobs.job import JobState
from airflow.models.taskinstance import TaskInstance
from airflow.providers.celery.executors.celery_executor import CeleryExecutor
from airflow.utils.state import TaskInstanceState


class LabExecutor(CeleryExecutor):
    """Gives back to the scheduler what may never have been sent to the broker.

    CeleryExecutor adopts such a task and waits for it until task_queued_timeout: a trade-off made in
    apache/airflow#65594, with which this may go. A message that was sent after all is refused when a worker takes it,
    because a task that is given back has a new id.
    """

    def try_adopt_task_instances(self, tis: Sequence[TaskInstance]) -> Sequence[TaskInstance]:
        """Return those of a dead scheduler's tasks that are to be queued again."""
        unsent = [ti for ti in tis if perhaps_unsent(ti)]
        for ti in unsent:
            ti.max_tries += 1  # the try that this costs is not one of the task's retries
        return [*unsent, *super().try_adopt_task_instances([ti for ti in tis if ti not in unsent])]


def perhaps_unsent(ti: TaskInstance) -> bool:
    """Return whether a task was queued after the last heartbeat of its scheduler: at each, all tasks have been sent."""
    job = ti.queued_by_job
    return (
        ti.state == TaskInstanceState.QUEUED and job.state == JobState.FAILED and ti.queued_dttm > job.latest_heartbeat
    )
