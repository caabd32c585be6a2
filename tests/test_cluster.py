"""The cluster from outside, through nginx: every part is healthy, and tasks pass through all of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import httpx
import psycopg
import pytest
from vega_datasets import local_data

from lab.client import Airflow
from lab.machines import Machines
from lab.topology import Topology
from tests.support.health import check_healthy
from tests.support.lab import LAB, NOW

pytestmark = [pytest.mark.one_broker, pytest.mark.usefixtures("broker")]
MONTHS = ["2009-10", "2009-11", "2009-12", "2010-01", "2010-02"]
STOCKS = "get_stocks_dag"
PATIENCE = NOW.seconds(30)  # seconds that an api-server has to answer


def intervals(tasks: Iterable[dict[str, Any]]) -> list[tuple[datetime, datetime]]:
    return [(datetime.fromisoformat(t["start_date"]), datetime.fromisoformat(t["end_date"])) for t in tasks]


def most_at_once(spans: list[tuple[datetime, datetime]]) -> int:
    return max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)


def api_server(topology: Topology, index: int) -> str:
    machine = topology.with_role("api_server")[index]
    return f"http://{machine.address}:{topology.ports['api_server']}"


def test_every_part_of_the_lab_is_healthy(machines: Machines) -> None:
    LAB.eventually(lambda: check_healthy(), within=60)


def test_load_balancer_uses_every_api_server(airflow: Airflow, topology: Topology) -> None:
    served = {airflow.http.get("/api/v2/version").raise_for_status().headers["X-Served-By"] for _ in range(20)}
    port = topology.ports["api_server"]
    assert served == {f"{machine.address}:{port}" for machine in topology.with_role("api_server")}


def test_ui_is_served(airflow: Airflow) -> None:
    page = airflow.http.get("/", follow_redirects=True)
    assert page.status_code == 200
    assert "<title>" in page.text


def test_workers_are_registered_with_their_queues(topology: Topology, flower_api: httpx.Client) -> None:
    def registered() -> None:
        workers = flower_api.get("workers", params={"refresh": "true"}).raise_for_status().json()
        queues = {
            name.removeprefix("celery@").rpartition("-")[0]: {
                queue["name"] for queue in worker.get("active_queues", [])
            }
            for name, worker in workers.items()
        }
        assert queues == {worker.name: set(worker.queues) for worker in topology.with_role("worker")}

    LAB.eventually(registered, within=60)


def test_token_of_one_api_server_is_valid_at_the_other(topology: Topology, secret: dict[str, str]) -> None:
    token = Airflow(api_server(topology, 0), secret["airflow_admin_password"]).http.headers["Authorization"]
    answer = httpx.get(
        f"{api_server(topology, 1)}/api/v2/dags", headers={"Authorization": token}, timeout=PATIENCE, trust_env=False
    )
    assert answer.status_code == 200


def test_login_session_of_one_api_server_is_valid_at_the_other(topology: Topology, secret: dict[str, str]) -> None:
    with httpx.Client(follow_redirects=True, timeout=PATIENCE, trust_env=False) as browser:
        page = browser.get(f"{api_server(topology, 0)}/auth/login/")
        form = {"username": "admin", "password": secret["airflow_admin_password"]}
        if field := re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page.text):
            form["csrf_token"] = field[1]
        home = browser.post(f"{api_server(topology, 0)}/auth/login/", data=form)
        assert str(home.url) == f"{api_server(topology, 0)}/"
        cookies = {cookie.name: cookie.value or "" for cookie in browser.cookies.jar}
    other = api_server(topology, 1)
    assert httpx.get(f"{other}/api/v2/dags", cookies=cookies, timeout=PATIENCE, trust_env=False).status_code == 200
    users = httpx.get(f"{other}/auth/users/list/", cookies=cookies, timeout=PATIENCE, trust_env=False)
    assert users.status_code == 200
    assert "admin@example.com" in users.text
    assert httpx.get(f"{other}/auth/users/list/", timeout=PATIENCE, trust_env=False).status_code != 200


def test_pinned_tasks_run_on_the_worker_of_their_queue(airflow: Airflow, topology: Topology) -> None:
    run_id = airflow.trigger("dist_example")
    assert airflow.wait("dist_example", run_id, within=90)["state"] == "success"
    tasks = airflow.tasks("dist_example", run_id)
    assert {task["queue"] for task in tasks} == {"queue_1", "queue_2"}
    for task in tasks:
        assert task["hostname"] in {w.name for w in topology.with_role("worker") if task["queue"] in w.queues}
        assert f"running on {task['hostname']}" in airflow.log(task)


def test_five_tasks_run_at_once_on_both_workers(airflow: Airflow, topology: Topology) -> None:
    dag_id, seconds = "celery_parallel_demo", topology.seconds(30)
    # Two runs: one worker may take all tasks of one run, but does not have enough slots for both runs.
    other_run = airflow.trigger(dag_id, seconds=seconds)
    run_id = airflow.trigger(dag_id, seconds=seconds)
    run = airflow.wait(dag_id, run_id, within=120)
    assert run["state"] == "success", airflow.states(dag_id, run_id)
    tasks = airflow.tasks(dag_id, run_id)
    assert len(tasks) == 5
    spans = intervals(tasks)
    assert most_at_once(spans) == 5
    assert min((end - start).total_seconds() for start, end in spans) >= seconds
    # About as long as one task: one after the other, they would take five times as long.
    assert run["duration"] < 2 * seconds
    hosts = {task["hostname"] for task in [*tasks, *airflow.tasks(dag_id, other_run)]}
    assert hosts == {worker.name for worker in topology.with_role("worker")}


def test_duration_of_the_parallel_tasks_is_a_parameter(airflow: Airflow, topology: Topology) -> None:
    run_id = airflow.trigger("celery_parallel_demo", seconds=0)
    run = airflow.wait("celery_parallel_demo", run_id, within=60)
    assert run["state"] == "success", airflow.states("celery_parallel_demo", run_id)
    assert len(airflow.tasks("celery_parallel_demo", run_id)) == 5
    assert run["duration"] < topology.seconds(30)


def caught_up(airflow: Airflow) -> list[dict[str, Any]]:
    """Unpause the DAG of the stocks, and return its runs when those of all months have succeeded."""
    airflow.unpause(STOCKS)

    def runs() -> list[dict[str, Any]]:
        found = airflow.get(f"dags/{STOCKS}/dagRuns")["dag_runs"]
        assert {run["logical_date"][:7]: run["state"] for run in found} == dict.fromkeys(MONTHS, "success")
        return found

    return LAB.eventually(runs, within=240)


def test_stocks_of_every_month_are_collected_two_tickers_at_a_time(
    airflow: Airflow, lab_database: psycopg.Connection[Any]
) -> None:
    for run in caught_up(airflow):
        tasks = airflow.tasks(STOCKS, run["dag_run_id"])
        assert len(tasks) == 6
        assert most_at_once(intervals(tasks)) <= 2
    assert stored(lab_database) == published()


def test_a_run_of_stocks_is_idempotent(airflow: Airflow, lab_database: psycopg.Connection[Any]) -> None:
    caught_up(airflow)
    run_id = f"scheduled__{MONTHS[0]}-01T00:00:00+00:00"
    before = stored(lab_database)
    assert before
    attempts = {task["map_index"]: task["try_number"] for task in airflow.tasks(STOCKS, run_id)}
    cleared = airflow.http.post(f"/api/v2/dags/{STOCKS}/dagRuns/{run_id}/clear", json={"dry_run": False})
    cleared.raise_for_status()
    assert airflow.wait(STOCKS, run_id, within=120)["state"] == "success"
    again = {task["map_index"]: task["try_number"] for task in airflow.tasks(STOCKS, run_id)}
    assert again == {index: number + 1 for index, number in attempts.items()}
    assert stored(lab_database) == before


def stored(database: psycopg.Connection[Any]) -> list[tuple[str, str, float]]:
    query = "SELECT symbol, to_char(day, 'YYYY-MM-DD'), price::float FROM stock_prices ORDER BY symbol, day"
    return database.execute(query).fetchall()


def published() -> list[tuple[str, str, float]]:
    prices = local_data.stocks()
    rows = [(row.symbol, f"{row.date:%Y-%m-%d}", row.price) for row in prices.itertuples()]
    return sorted(row for row in rows if row[1][:7] in MONTHS)


@pytest.mark.parametrize("table", ["missing", "existing"])
def test_collectors_write_to_one_table(
    airflow: Airflow, topology: Topology, lab_database: psycopg.Connection[Any], table: str
) -> None:
    if table == "missing":
        lab_database.execute("DROP TABLE IF EXISTS collected")
    run_id = airflow.trigger("collectors")
    run = airflow.wait("collectors", run_id, within=90)
    assert run["state"] == "success", airflow.states("collectors", run_id)
    query = "SELECT collector, host FROM collected WHERE run_id = %s"
    rows = lab_database.execute(query, [run_id]).fetchall()
    assert sorted(collector for collector, _ in rows) == ["east", "north", "south", "west"]
    assert {host for _, host in rows} <= {worker.name for worker in topology.with_role("worker")}
