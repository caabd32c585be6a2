"""Clients of the lab, as anyone outside it would use it: Airflow's REST API through nginx, and the DAGs' database."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psycopg

from lab.topology import ROOT, Topology

T = TypeVar("T")  # Python 3.11 has no `def eventually[T]`
TERMINAL = ("success", "failed")
TOKEN_KEPT = 12 * 3600  # seconds


def secrets(root: Path = ROOT) -> dict[str, str]:
    """Return the secrets of the checkout; FileNotFoundError before its first `vagrant up`."""
    return json.loads((root / ".lab" / "secrets.json").read_text())


def connect(topology: Topology, database: str = "lab") -> psycopg.Connection[Any]:
    """Return a connection to the database that the DAGs write to, or to Airflow's own."""
    return psycopg.connect(
        host=topology.with_role("database")[0].address,
        user="airflow",
        password=secrets()["postgresql_password"],
        dbname=database,
        autocommit=True,
        connect_timeout=4 * topology.time_factor,
    )


def eventually(predicate: Callable[[], T], *, within: float, every: float = 1) -> T:
    """Call `predicate` until it raises no AssertionError and return its result.

    After `within` seconds, times the lab's `time_factor`, the last AssertionError is raised.
    """
    deadline = time.monotonic() + within * Topology.load().time_factor
    while True:
        try:
            return predicate()
        except AssertionError as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {within:g} s: {error}") from error
            time.sleep(every)


class Airflow:
    """Airflow's REST API as the user admin; every call raises httpx.HTTPStatusError on an answer of 400 and above."""

    def __init__(self, url: str, password: str, token: str = "") -> None:
        self.http = httpx.Client(base_url=url, timeout=30 * Topology.load().time_factor, trust_env=False)
        self.password = password
        self.http.headers["Authorization"] = f"Bearer {token or self.token()}"

    @classmethod
    def of_this_checkout(cls) -> Airflow:
        """Return a client of the running lab.

        Its token is kept in `.lab/` for half of the day that it is good: Airflow takes five logins in 40 s.
        """
        kept, url = ROOT / ".lab" / "token", f"http://{Topology.load().reach('load_balancer', 'load_balancer')}"
        fresh = kept.exists() and time.time() - kept.stat().st_mtime < TOKEN_KEPT
        airflow = cls(url, secrets()["airflow_admin_password"], kept.read_text() if fresh else "")
        if not fresh:
            kept.touch(mode=0o600)
            kept.write_text(airflow.http.headers["Authorization"].removeprefix("Bearer "))
        return airflow

    def token(self) -> str:
        """Log in and return a token."""
        answer = self.http.post("/auth/token", json={"username": "admin", "password": self.password})
        return answer.raise_for_status().json()["access_token"]

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        """Return what `/api/v2` answers at `path`."""
        return self.http.get(f"/api/v2/{path}", params=params).raise_for_status().json()

    def unpause(self, dag_id: str, paused: bool = False) -> None:
        """Unpause a DAG, or pause it."""
        self.http.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": paused}).raise_for_status()

    def trigger(self, dag_id: str, **conf: Any) -> str:
        """Unpause a DAG, trigger it with `conf` and return the id of the run."""
        self.unpause(dag_id)
        answer = self.http.post(f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf})
        return answer.raise_for_status().json()["dag_run_id"]

    def wait(self, dag_id: str, run_id: str, within: float) -> dict[str, Any]:
        """Return a run once it has ended, however it did; AssertionError after `within` seconds."""

        def ended() -> dict[str, Any]:
            run = self.get(f"dags/{dag_id}/dagRuns/{run_id}")
            assert run["state"] in TERMINAL, f"{dag_id} {run_id} is {run['state']}: {self.states(dag_id, run_id)}"
            return run

        return eventually(ended, within=within)

    def give_up(self, dag_id: str, run_id: str) -> None:
        """Mark a run as failed: none of its tasks goes on, or begins."""
        self.http.patch(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"}).raise_for_status()

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run."""
        return self.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances", limit=1000)["task_instances"]

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """Return the state of each task instance of a run, by task and map index."""
        return {f"{task['task_id']}[{task['map_index']}]": task["state"] for task in self.tasks(dag_id, run_id)}

    def counts(self, dag_id: str, run_id: str) -> str:
        """Return how many task instances of a run are in each state, in words."""
        states = Counter(state or "none" for state in self.states(dag_id, run_id).values())
        return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))

    def log(self, task: dict[str, Any]) -> str:
        """Return the log of the last try of a task instance, as the UI shows it."""
        run = f"dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}"
        path = f"{run}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
        return json.dumps(self.get(path, map_index=task["map_index"])["content"])
