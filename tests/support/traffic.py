"""Client traffic: requests through nginx, and DAG runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from lab.client import Airflow

PATHS = ("/", "/api/v2/monitor/health", "/api/v2/dags", "/api/v2/version")


@contextmanager
def client_traffic(airflow: Airflow) -> Iterator[list[str]]:
    """Requests pages through nginx, one after the other, and lists the status codes and errors."""
    answers: list[str] = []

    def request() -> None:
        for path in PATHS:
            try:
                answers.append(str(airflow.http.get(path).status_code))
            except httpx.HTTPError as error:
                answers.append(repr(error))

    with repeated(request, every=0.05):
        yield answers


@contextmanager
def followed_log(airflow: Airflow, task: dict[str, Any]) -> Iterator[list[int]]:
    """Reads the log of a task again and again, as the UI does, and lists its length; -1 for an error."""
    lengths: list[int] = []

    def read() -> None:
        try:
            lengths.append(len(airflow.log(task)))
        except httpx.HTTPError:
            lengths.append(-1)

    with repeated(read, every=0.2):
        yield lengths


@contextmanager
def repeated(work: Callable[[], None], every: float) -> Iterator[None]:
    """Call `work` in a thread, `every` so many seconds."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(every):
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def check_pinned_tasks(airflow: Airflow) -> None:
    """Asserts that both pinned tasks of dist_example find their worker."""
    run_id = airflow.trigger("dist_example")
    assert airflow.wait("dist_example", run_id, within=120)["state"] == "success"
