"""A client of Airflow's REST API, which it reaches through nginx, as a user does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from lab.waiting import eventually

TERMINAL = ("success", "failed")
Seconds = Callable[[float], float]


class Airflow:
    """Airflow's REST API as the user admin; every call raises httpx.HTTPStatusError for a status of 400 and above."""

    def __init__(self, url: str, password: str, token: str = "", seconds: Seconds = float) -> None:
        """Wait as long as `seconds` returns for a number of seconds: `Topology.seconds`, or just that number."""
        # Without the host's proxy: no proxy reaches the lab.
        self.http = httpx.Client(base_url=url, timeout=seconds(30), trust_env=False)
        self.seconds = seconds
        self.password = password
        self.http.headers["Authorization"] = f"Bearer {token or self.token()}"

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
        return self.start(dag_id, conf)

    def start(self, dag_id: str, conf: Mapping[str, Any], run_id: str | None = None) -> str:
        """As `trigger`, with an id that the caller chooses: it can look for the run if no answer comes."""
        self.unpause(dag_id)
        run = {"logical_date": None, "conf": dict(conf)} | ({"dag_run_id": run_id} if run_id else {})
        answer = self.http.post(f"/api/v2/dags/{dag_id}/dagRuns", json=run)
        return answer.raise_for_status().json()["dag_run_id"]

    def wait(self, dag_id: str, run_id: str, within: float) -> dict[str, Any]:
        """Return a run when it has ended, in whatever state; AssertionError after `seconds(within)`."""

        def ended() -> dict[str, Any]:
            run = self.get(f"dags/{dag_id}/dagRuns/{run_id}")
            assert run["state"] in TERMINAL, f"{dag_id} {run_id} is {run['state']}: {self.states(dag_id, run_id)}"
            return run

        return eventually(ended, seconds=self.seconds(within))

    def give_up(self, dag_id: str, run_id: str) -> None:
        """Mark a run as failed, which ends its tasks."""
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
        """Return the log of the last attempt of a task instance, as the UI shows it."""
        run = f"dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}"
        path = f"{run}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
        return json.dumps(self.get(path, map_index=task["map_index"])["content"])
