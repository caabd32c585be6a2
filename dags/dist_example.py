"""Two tasks, each pinned to a queue: which worker runs a task is decided by the queues it listens to."""

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
