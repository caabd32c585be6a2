"""Two tasks, each in its own queue: only workers that consume a queue run its tasks."""

import socket

from airflow.sdk import dag, task


@dag(tags=["lab"])
def dist_example():
    @task
    def report() -> str:
        print(f"running on {socket.gethostname()}")
        return socket.gethostname()

    report.override(task_id="on_queue_1", queue="queue_1")()
    report.override(task_id="on_queue_2", queue="queue_2")()


dist_example()
