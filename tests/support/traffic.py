"""Client traffic: requests through nginx, and DAG runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from lab.client import Airflow

PATHS = ("/", "/api/v2/monitor/health", "/api/v2/dags", "/api/v2/version")


@contextmanager
def client_traffic(airflow: Airflow) -> Iterator[list[str]]:
    """Requests pages through nginx, one after the other, and lists the status codes and errors."""
    answers: list[str] = []
    stop = threading.Event()

    def request() -> None:
        while not stop.wait(0.05):
            for path in PATHS:
                try:
                    answers.append(str(airflow.http.get(path).status_code))
                except httpx.HTTPError as error:
                    answers.append(repr(error))

    thread = threading.Thread(target=request)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join()


def check_pinned_tasks(airflow: Airflow) -> None:
    """Asserts that both pinned tasks of dist_example find their worker."""
    run_id = airflow.trigger("dist_example")
    assert airflow.wait("dist_example", run_id, within=120)["state"] == "success"
