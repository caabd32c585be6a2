"""A part is stopped, halted or lost: each test shows that the lab works without it, and is healthy afterwards."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from lab import faults
from lab.client import Airflow
from lab.machines import Guest, Machines
from lab.topology import Topology
from tests.support.lab import LAB
from tests.support.traffic import check_pinned_tasks, client_traffic

pytestmark = [pytest.mark.destructive, pytest.mark.one_broker, pytest.mark.usefixtures("broker")]
LOCK = 4242  # any number
HOLD = f"""
import pathlib, sqlalchemy, time
engine = sqlalchemy.create_engine(pathlib.Path("/opt/airflow/secrets/sql_alchemy_conn").read_text())
with engine.connect() as connection:
    connection.exec_driver_sql("SELECT pg_advisory_lock({LOCK})")
    time.sleep(600)
"""

# As an api-server answers a task.
READ = """
import pathlib, time
from airflow.models import Connection
end = time.monotonic() + 8
while time.monotonic() < end:
    Connection.get_connection_from_secrets("lab_database")
    pathlib.Path("/run/has-read").touch()
"""


@pytest.mark.drawn
@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
def test_users_do_not_notice_a_stopped_api_server(airflow: Airflow, api_server: Guest, signal: str) -> None:
    unit = "airflow-api-server"
    with client_traffic(airflow) as answers:
        LAB.eventually(lambda: _answers(answers, 20), within=30)
        api_server.run(f"systemctl kill --kill-whom=all --signal={signal} {unit} && systemctl stop {unit}")
        assert not api_server.host.service(unit).is_running
        seen = len(answers)
        LAB.eventually(lambda: _answers(answers, seen + 40), within=60)
        api_server.run(f"systemctl start {unit}")
        LAB.eventually(lambda: _serves(airflow, api_server), within=60)
    assert set(answers) == {"200"}


def test_nginx_asks_api_servers_that_it_has_set_aside(airflow: Airflow, machines: Machines, topology: Topology) -> None:
    """If both are down, nginx still asks both at each request: it finds the first one that is up again at once."""
    servers = [machines.guest(machine.name) for machine in topology.with_role("api_server")]
    try:
        for guest in servers:
            guest.run("systemctl stop airflow-api-server")
        asked = [airflow.http.get("/api/v2/version").headers["X-Served-By"] for _ in range(8)]
    finally:
        for guest in servers:
            guest.run("systemctl start airflow-api-server")
    names = {f"{guest.machine.address}:{topology.ports['api_server']}" for guest in servers}
    assert all(names <= set(one.split(", ")) for one in asked), asked


def _answers(answers: list[str], count: int) -> None:
    assert len(answers) >= count


def _serves(airflow: Airflow, guest: Guest) -> None:
    # nginx names every server that it asked: the last one answered.
    asked = [airflow.http.get("/api/v2/version").headers["X-Served-By"].split(", ")[-1] for _ in range(8)]
    assert guest.machine.address in {server.split(":")[0] for server in asked}


def test_log_of_a_halted_worker_can_be_read(airflow: Airflow, machines: Machines, topology: Topology) -> None:
    run_id = airflow.trigger("dist_example")
    assert airflow.wait("dist_example", run_id, within=60)["state"] == "success"
    task = next(task for task in airflow.tasks("dist_example", run_id) if task["queue"] == "queue_1")
    machines.halt(task["hostname"])
    try:
        assert f"running on {task['hostname']}" in airflow.log(task)
    finally:
        machines.up(task["hostname"])
    check_pinned_tasks(airflow)


def test_worker_comes_back_after_it_was_destroyed(airflow: Airflow, machines: Machines) -> None:
    machines.destroy("worker1")
    assert machines.status()["worker1"] == "not_created"
    machines.up("worker1")
    check_pinned_tasks(airflow)


def test_machine_that_was_halted_comes_back_with_its_services(airflow: Airflow, machines: Machines) -> None:
    machines.halt("master2")
    check_pinned_tasks(airflow)
    machines.up("master2")
    guest = machines.guest("master2")
    assert guest.run("getent hosts broker").split()[0] == "192.168.56.10"
    LAB.eventually(lambda: _serves(airflow, guest), within=90)


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_what_a_lost_machine_had_locked_is_free_again(
    machines: Machines, lab_database: psycopg.Connection[Any]
) -> None:
    """The machine fails silently (no FIN or RST), as if it lost power: PostgreSQL has to notice that itself."""

    def locked(times: int) -> None:
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s"
        assert lab_database.execute(query, [LOCK]).fetchone() == (times,)

    machines.guest("master1").run("systemd-run --unit hold --collect /opt/airflow/venv/bin/python -c %s", HOLD)
    try:
        LAB.eventually(lambda: locked(1), within=30)
        faults.FAULTS["partition"].inject(LAB, "master1", "database")
        LAB.eventually(lambda: locked(0), within=30)
    finally:
        faults.heal(LAB, ["master1"])
        machines.guest("master1").run("systemctl stop hold || true")


def test_connection_exists_while_the_database_restarts(machines: Machines, topology: Topology) -> None:
    """Airflow would take an error of the database for a connection that does not exist, and the task would fail."""
    guest, database = machines.guest("master1"), machines.guest(topology.with_role("database")[0].name)
    unit = topology.services(database.machine.name)["database"]
    start = "systemd-run --unit read --remain-after-exit --property EnvironmentFile=/opt/airflow/airflow.env"
    guest.run(f"{start} /opt/airflow/venv/bin/python -c %s", READ)
    try:
        LAB.eventually(lambda: guest.run("ls /run/has-read"), within=30)
        database.run(f"systemctl stop {unit} && sleep 2; systemctl start {unit}")
        LAB.eventually(lambda: _ended(guest), within=30)
        assert guest.run("systemctl show --value --property Result read") == "success"
    finally:
        guest.run("systemctl stop read; systemctl reset-failed read; rm -f /run/has-read")


def _ended(guest: Guest) -> None:
    assert guest.run("systemctl show --value --property SubState read") in ("exited", "failed")
