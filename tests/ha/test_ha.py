"""The layout `ha`, on a lab that has it: each role on several machines survives the loss of one, without a hand.

The drills of the layout show that no task and no commit is lost; this shows how it comes that none is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sized
from contextlib import suppress
from typing import Any

import httpx
import psycopg
import pytest

from lab import members
from lab.client import Airflow
from lab.machines import Machines
from lab.switchover import switchover
from lab.topology import Topology
from tests.support.lab import LAB, NOW
from tests.support.traffic import check_pinned_tasks, client_traffic, followed_log

TABLE = "CREATE TABLE IF NOT EXISTS fence (number int)"


@pytest.fixture
def fence() -> Iterator[None]:
    with LAB.connect() as database:
        database.execute(TABLE)
    yield
    with LAB.connect() as database:
        database.execute("DROP TABLE fence")


def test_each_role_has_one_that_decides_and_two_that_follow(topology: Topology) -> None:
    states = members.states(LAB)
    assert sorted(states["database"].values()) == ["primary", "replica", "replica"]
    assert sorted(states["consensus"].values()) == ["follower", "follower", "leader"]
    assert sorted(states["load_balancer"].values()) == [f"has {topology.address}", "ready", "ready"]
    assert members.findings(LAB) == []


@pytest.mark.destructive
def test_thawed_primary_acknowledges_no_write(machines: Machines, topology: Topology, fence: None) -> None:
    """It believes for a moment that it is the primary. A commit needs a replica, and the replicas follow another."""
    former = members.holder(LAB, "database")
    machines.hypervisor("freeze", former)
    try:
        assert LAB.eventually(lambda: _other_primary(former), within=60) != former
    finally:
        machines.hypervisor("thaw", former)
    acknowledged = []
    for number in range(100):
        with suppress(psycopg.Error), _direct(topology, former) as database:
            database.execute("SET statement_timeout = 200")
            database.execute("INSERT INTO fence VALUES (%s)", [number])
            acknowledged.append(number)
    LAB.eventually(lambda: _check_members("database"), within=60)
    with LAB.connect() as database:
        found = [number for (number,) in database.execute("SELECT number FROM fence").fetchall()]
    assert sorted(found) == acknowledged, "a commit was acknowledged and lost"
    assert not acknowledged, f"{former} wrote as if it were the primary"


@pytest.mark.destructive
def test_thawed_machine_serves_no_old_data(machines: Machines, topology: Topology, airflow: Airflow) -> None:
    """Its api-server reads from its own PostgreSQL, which believes for a moment that it is the primary."""
    LAB.eventually(_primary_beside_an_api_server, within=120, every=10)
    former = members.holder(LAB, "database")
    url = f"http://{topology[former].address}:{topology.ports['api_server']}/api/v2/variables/thawed"
    airflow.http.delete("/api/v2/variables/thawed")
    with httpx.Client(headers=airflow.http.headers, timeout=2, trust_env=False) as client:
        machines.hypervisor("freeze", former)
        try:
            LAB.eventually(lambda: _other_primary(former), within=60)
            LAB.eventually(lambda: _set(airflow, "thawed"), within=60)
        finally:
            machines.hypervisor("thaw", former)
        answers = [_status(client, url) for _ in range(200)]
        LAB.eventually(lambda: _check_members("database"), within=60)
        assert 404 not in answers, answers
        LAB.eventually(lambda: _check_status(client, url, 200), within=60)
    airflow.http.delete("/api/v2/variables/thawed").raise_for_status()


def _primary_beside_an_api_server() -> None:
    if "api_server" not in LAB.topology[members.holder(LAB, "database")].roles:
        switchover(LAB, "database")
    assert "api_server" in LAB.topology[members.holder(LAB, "database")].roles


def _set(airflow: Airflow, variable: str) -> None:
    try:
        airflow.http.post("/api/v2/variables", json={"key": variable, "value": "1"})
        airflow.http.get(f"/api/v2/variables/{variable}").raise_for_status()
    except httpx.HTTPError as error:
        raise AssertionError(error) from error


def _status(client: httpx.Client, url: str) -> int:
    """Return the status of an answer; 0 if there is none."""
    time.sleep(0.05)
    try:
        return client.get(url).status_code
    except httpx.HTTPError:
        return 0


def _check_status(client: httpx.Client, url: str, status: int) -> None:
    assert _status(client, url) == status


def _other_primary(former: str) -> str:
    name = members.holder(LAB, "database")
    assert name != former
    with LAB.connect() as database:
        database.execute("SELECT 1")
    return name


def _direct(topology: Topology, name: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        host=topology[name].address,
        user="airflow",
        password=LAB.secrets["postgresql_password"],
        dbname="lab",
        autocommit=True,
        connect_timeout=2,
    )


def _check_members(*roles: str) -> None:
    assert members.findings(LAB) == []
    assert all(members.holder(LAB, role) for role in roles)


@pytest.mark.destructive
def test_destroyed_machine_becomes_a_member_again(machines: Machines) -> None:
    """With an empty disk: of the database, of etcd and of the queue. Nothing fails over."""
    primary, master = members.holder(LAB, "database"), members.holder(LAB, "queue")
    name = next(one.name for one in LAB.topology.with_role("database") if one.name not in (primary, master))
    machines.destroy(name)
    machines.up(name)
    LAB.eventually(lambda: _check_members("database", "queue"), within=120)
    assert members.holder(LAB, "database") == primary


@pytest.mark.destructive
@pytest.mark.thorough
def test_machine_made_again_takes_part_in_the_next_move(machines: Machines, topology: Topology) -> None:
    """The other nodes of RabbitMQ knew it before the lab moved to Redis, and it has an empty disk now."""
    before, name = topology.broker, topology.with_role("queue")[-1].name
    try:
        machines.provision(BROKER="rabbitmq")
        machines.provision(BROKER="redis")
        machines.destroy(name)
        machines.up(name)
        machines.provision(BROKER="rabbitmq")
        LAB.eventually(lambda: _check_members("queue"), within=120)
    finally:
        machines.provision(BROKER=before)


@pytest.mark.destructive
def test_users_do_not_notice_that_the_address_moves(airflow: Airflow, machines: Machines) -> None:
    run = airflow.trigger("ledger", tasks=1, seconds=40)
    task = LAB.eventually(lambda: _running(airflow, run), within=30)
    holder = members.address_holder(LAB)
    with client_traffic(airflow) as answers, followed_log(airflow, task) as lengths:
        machines.guest(holder).run("systemctl stop nginx")
        LAB.eventually(lambda: _holds_not(holder), within=20)
        machines.guest(holder).run("systemctl start nginx")
        seen = len(answers), len(lengths)
        LAB.eventually(lambda: _more(answers, seen[0] + 20), within=30)
        LAB.eventually(lambda: _more(lengths, seen[1] + 5), within=30)
    failed = [answer for answer in answers if answer != "200"]
    assert len(failed) <= 1, failed  # the request in flight
    read = [length for length in lengths if length >= 0]
    assert len(lengths) - len(read) <= 1
    assert read == sorted(read), "a part of the log was missing for a while"
    assert airflow.wait("ledger", run, within=120)["state"] == "success"


def _running(airflow: Airflow, run: str) -> dict[str, Any]:
    found = [task for task in airflow.tasks("ledger", run) if task["state"] == "running" and task["task_id"] == "work"]
    assert found
    return found[0]


def _holds_not(holder: str) -> None:
    assert members.address_holder(LAB) not in ("", holder)


def _more(answers: Sized, count: int) -> None:
    assert len(answers) >= count


@pytest.mark.destructive
def test_tasks_need_no_nginx(airflow: Airflow, machines: Machines, topology: Topology) -> None:
    run = airflow.trigger("ledger", tasks=4, seconds=5)
    for machine in topology.with_role("load_balancer"):
        machines.guest(machine.name).run("systemctl stop nginx")
    try:
        LAB.eventually(lambda: _ended("ledger", run), within=60)
    finally:
        for machine in topology.with_role("load_balancer"):
            machines.guest(machine.name).run("systemctl start nginx")


def _ended(dag: str, run: str) -> None:
    with LAB.connect("airflow") as database:
        query = "SELECT state FROM dag_run WHERE dag_id = %s AND run_id = %s"
        assert database.execute(query, [dag, run]).fetchone() == ("success",)


@pytest.mark.destructive
@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize("role", ["database", "queue"])
def test_switchover_moves_it_to_another_machine(airflow: Airflow, role: str) -> None:
    before = members.holder(LAB, role)
    print(switchover(LAB, role))
    if role == "database" or LAB.topology.broker == "redis":
        assert members.holder(LAB, role) != before
    LAB.eventually(lambda: _check_members("database", "queue"), within=60)
    check_pinned_tasks(airflow)


@pytest.mark.destructive
def test_provisioning_again_hands_nothing_over(machines: Machines) -> None:
    before = {role: members.holder(LAB, role) for role in ("database", "queue", "load_balancer")}
    machines.provision()
    assert {role: members.holder(LAB, role) for role in before} == before


@pytest.mark.parametrize("name", [one.name for one in NOW.with_role("load_balancer")])
def test_each_load_balancer_serves_the_page(topology: Topology, name: str) -> None:
    url = f"http://{topology[name].address}:{topology.ports['load_balancer']}/api/v2/version"
    assert httpx.get(url, timeout=10, trust_env=False).is_success
