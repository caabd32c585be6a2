"""Five tasks that sleep at the same time, spread over the workers: together they take about as long as one."""

import socket
import time

from airflow.sdk import Param, dag, task


@dag(
    tags=["lab"],
    params={"seconds": Param(30, type="integer", minimum=0, maximum=3600, description="How long each task sleeps")},
)
def celery_parallel_demo():
    @task
    def sleep(number: int, params: dict | None = None) -> str:
        assert params is not None
        for second in range(params["seconds"]):
            print(f"task {number} on {socket.gethostname()}: {second} of {params['seconds']} s")
            time.sleep(1)
        return socket.gethostname()

    sleep.expand(number=[1, 2, 3, 4, 5])


celery_parallel_demo()
