"""The broker: what it lets in, what it keeps, what it survives, and that the lab moves from one to the other."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pika
import pytest
import redis
from pika.exceptions import AMQPConnectionError

from lab.client import Airflow, connect, eventually
from lab.machines import Guest, Machines
from lab.topology import QUEUE_UNITS, Topology

OTHER = {"redis": "rabbitmq", "rabbitmq": "redis"}
on_redis = pytest.mark.parametrize("broker", ["redis"], indirect=True)
on_rabbitmq = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
DAG = "ledger"


def amqp(topology: Topology, user: str, password: str) -> pika.BlockingConnection:
    login = pika.PlainCredentials(user, password)
    host, port = topology.with_role("queue")[0].address, topology.ports["rabbitmq"]
    return pika.BlockingConnection(
        pika.ConnectionParameters(host, port, "airflow", login, socket_timeout=5, connection_attempts=1)
    )


def management(topology: Topology, secret: dict[str, str], path: str) -> Any:
    url = f"http://{topology.reach('queue', 'rabbitmq_management')}/api/{path}"
    return httpx.get(url, auth=("airflow", secret["rabbitmq_password"])).raise_for_status().json()


def server(topology: Topology, secret: dict[str, str]) -> redis.Redis:
    host, port = topology.with_role("queue")[0].address, topology.ports["redis"]
    return redis.Redis(host, port, password=secret["redis_password"])


def depth(topology: Topology, secret: dict[str, str], queue: str) -> int:
    """Return how many tasks wait in a queue of the chosen broker."""
    if topology.broker == "redis":
        return int(server(topology, secret).llen(queue))  # type: ignore[arg-type]
    with amqp(topology, "airflow", secret["rabbitmq_password"]) as connection:
        return connection.channel().queue_declare(queue, passive=True).method.message_count


# What it lets in


@on_redis
@pytest.mark.parametrize("password", [None, "", "wrong"])
def test_redis_refuses_who_has_no_password(broker: str, queue: Guest, topology: Topology, password: str | None) -> None:
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(queue.machine.address, topology.ports["redis"], password=password).ping()


@on_redis
def test_redis_keeps_what_it_is_given(broker: str, topology: Topology, secret: dict[str, str]) -> None:
    settings = server(topology, secret).config_get("*")
    assert settings["appendonly"] == "yes"
    assert settings["maxmemory-policy"] == "noeviction"


@on_rabbitmq
@pytest.mark.parametrize(("user", "password"), [("guest", "guest"), ("airflow", "wrong"), ("airflow", "")])
def test_rabbitmq_refuses_guests_and_wrong_passwords(broker: str, topology: Topology, user: str, password: str) -> None:
    with pytest.raises(AMQPConnectionError):
        amqp(topology, user, password)


@on_rabbitmq
def test_rabbitmq_has_one_user_and_one_virtual_host(broker: str, topology: Topology, secret: dict[str, str]) -> None:
    assert [user["name"] for user in management(topology, secret, "users")] == ["airflow"]
    hosts = {host["name"]: host["default_queue_type"] for host in management(topology, secret, "vhosts")}
    assert hosts == {"airflow": "quorum"}


@on_rabbitmq
def test_queues_of_tasks_are_quorum_queues(broker: str, topology: Topology, secret: dict[str, str]) -> None:
    queues = {queue["name"]: queue["type"] for queue in management(topology, secret, "queues/airflow")}
    assert {"default", "queue_1", "queue_2"} <= queues.keys()
    ours = {name: kind for name, kind in queues.items() if "pidbox" not in name and "celeryev" not in name}
    assert set(ours.values()) == {"quorum"}, queues


@on_rabbitmq
def test_no_deprecated_feature_of_rabbitmq_is_used(broker: str, queue: Guest) -> None:
    assert queue.run("rabbitmqctl --quiet --no-table-headers list_deprecated_features --used name") == ""


@on_rabbitmq
def test_message_published_with_confirm_is_consumed(broker: str, topology: Topology, secret: dict[str, str]) -> None:
    with amqp(topology, "airflow", secret["rabbitmq_password"]) as connection:
        channel = connection.channel()
        channel.queue_declare("proof", durable=True, arguments={"x-queue-type": "quorum"})
        try:
            channel.confirm_delivery()
            channel.basic_publish("", "proof", b"hello", pika.BasicProperties(delivery_mode=2), mandatory=True)
            _, _, body = next(channel.consume("proof", auto_ack=True, inactivity_timeout=10))
            assert body == b"hello"
            channel.cancel()
        finally:
            channel.queue_delete("proof")


def alone(queue: Guest, broker: str) -> None:
    """Assert that a broker runs, and the other does not."""
    assert queue.host.service(QUEUE_UNITS[broker]).is_running
    assert not queue.host.service(QUEUE_UNITS[OTHER[broker]]).is_running
    assert not queue.host.service(QUEUE_UNITS[OTHER[broker]]).is_enabled


def test_only_the_chosen_broker_runs(broker: str, queue: Guest) -> None:
    eventually(lambda: alone(queue, broker), within=60)


def test_flower_reads_the_length_of_every_queue(broker: str, topology: Topology, flower_api: httpx.Client) -> None:
    def lengths() -> None:
        flower_api.get("workers", params={"refresh": "true"}).raise_for_status()
        queues = flower_api.get("queues/length").raise_for_status().json()["active_queues"]
        known = {queue["name"]: queue["messages"] for queue in queues}
        assert known == {queue: 0 for worker in topology.with_role("worker") for queue in worker.queues}

    eventually(lengths, within=60)


# What it keeps


@contextmanager
def stopped_workers(machines: Machines, topology: Topology) -> Iterator[None]:
    guests = [machines.guest(worker.name) for worker in topology.with_role("worker")]
    for guest in guests:
        guest.run(f"systemctl stop airflow-worker@{topology.broker}")
    try:
        yield
    finally:
        for guest in guests:
            guest.run(f"systemctl start airflow-worker@{topology.broker}")


@pytest.mark.destructive
def test_depth_of_the_queue_is_the_number_of_queued_tasks(
    broker: str, airflow: Airflow, machines: Machines, topology: Topology, secret: dict[str, str]
) -> None:
    with stopped_workers(machines, topology):
        run_id = airflow.trigger("dist_example")

        def queued() -> None:
            assert set(airflow.states("dist_example", run_id).values()) == {"queued"}
            assert [depth(topology, secret, queue) for queue in ("queue_1", "queue_2")] == [1, 1]

        eventually(queued, within=60)
    assert airflow.wait("dist_example", run_id, within=90)["state"] == "success"


def working(airflow: Airflow, run_id: str) -> None:
    """Assert that a run has tasks that run, and tasks that wait for a place."""
    states = [*airflow.states(DAG, run_id).values()]
    assert states.count("running") > 4, states
    assert states.count("queued") > 4, states


@contextmanager
def load(airflow: Airflow, topology: Topology, tasks: int, long: int) -> Iterator[None]:
    """Put tasks of a few seconds and a long one on the lab; assert that each was done once, at its first try."""
    run_id = airflow.trigger(DAG, tasks=tasks, seconds=4, long=long)
    eventually(lambda: working(airflow, run_id), within=60)
    yield
    assert airflow.wait(DAG, run_id, within=300)["state"] == "success", airflow.states(DAG, run_id)
    query = "SELECT task, try, stands FROM tries WHERE run_id = %s ORDER BY task"
    with connect(topology) as connection:
        rows = connection.execute(query, [run_id]).fetchall()
    assert rows == [(task, 1, True) for task in range(tasks + 1)]


# These three are in order: the lab leaves the broker it is on, and is moved back to it.


@pytest.mark.destructive
def test_lab_moves_to_the_other_broker_under_load(
    broker: str, airflow: Airflow, machines: Machines, topology: Topology
) -> None:
    with load(airflow, topology, tasks=60, long=60):
        machines.provision(BROKER=OTHER[broker])
        again = airflow.trigger("dist_example")
        assert airflow.wait("dist_example", again, within=30)["state"] == "success"


@on_redis
@pytest.mark.destructive
def test_move_that_is_interrupted_is_completed_by_provisioning_again(
    broker: str, airflow: Airflow, machines: Machines, topology: Topology
) -> None:
    with load(airflow, topology, tasks=40, long=40):
        first = machines.start_provision(BROKER=broker)
        assert first.stdout
        next(line for line in first.stdout if "master1: --> Starting operation" in line)
        beside = machines.start_provision()
        for _ in range(2):  # Vagrant waits for the end of what it does after one, and for nothing after two
            first.send_signal(signal.SIGINT)
            time.sleep(0.5)
        assert first.wait(60) != 0
        beside.communicate(timeout=120)
        machines.provision()
        alone(machines.guest("broker"), broker)


@on_rabbitmq
@pytest.mark.destructive
def test_machine_that_was_off_moves_when_it_is_back(
    broker: str, airflow: Airflow, machines: Machines, topology: Topology
) -> None:
    with load(airflow, topology, tasks=40, long=40):
        machines.halt("worker2")
        machines.provision(BROKER=broker)
        assert machines.guest("broker").host.service(QUEUE_UNITS[OTHER[broker]]).is_running
        machines.up("worker2")
        alone(machines.guest("broker"), broker)


# What it survives


DEAFEN = """
PYTHONPATH=/vagrant /opt/airflow/venv/bin/python - <<'END'
from pathlib import Path
from celery import Celery
app = Celery(broker=Path("/opt/airflow/secrets/broker_url_{broker}").read_text())
for queue in {queues}:
    app.control.cancel_consumer(queue, destination=["celery@{name}"], reply=True)
END
"""


@pytest.mark.destructive
def test_worker_that_takes_no_tasks_is_restarted(
    broker: str, airflow: Airflow, machines: Machines, topology: Topology
) -> None:
    worker = machines.guest("worker1")
    unit = f"airflow-worker@{broker}"
    pid = worker.run("systemctl show --property MainPID --value %s", unit)
    worker.run_script(DEAFEN.format(broker=broker, queues=worker.machine.queues, name="worker1"))
    run_id = airflow.trigger("dist_example")

    def restarted() -> None:
        assert worker.run("systemctl show --property MainPID --value %s", unit) != pid
        assert "is connected but listens to" in worker.run("journalctl --unit airflow-worker-watch --no-pager")

    eventually(restarted, within=180)
    assert airflow.wait("dist_example", run_id, within=90)["state"] == "success"
