"""The broker: who may connect, what it stores, and what it survives."""

from __future__ import annotations

from typing import Any

import httpx
import pika
import pytest
import redis
from pika.exceptions import ProbableAuthenticationError

from lab.client import Airflow
from lab.machines import Guest, Machines
from lab.topology import Topology
from tests.support.brokers import (
    amqp_connection,
    check_only_broker,
    on_rabbitmq,
    on_redis,
    queue_depth,
    redis_client,
    stopped_workers,
)
from tests.support.lab import LAB


def management(topology: Topology, secret: dict[str, str], path: str) -> Any:
    url = f"http://{topology.reach('rabbitmq_management')}/api/{path}"
    return httpx.get(url, auth=("airflow", secret["rabbitmq_password"]), trust_env=False).raise_for_status().json()


# Access


@on_redis
@pytest.mark.parametrize("password", [None, "", "wrong"])
def test_redis_refuses_other_passwords(broker: str, queue: Guest, topology: Topology, password: str | None) -> None:
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(queue.machine.address, topology.ports["redis"], password=password).ping()


@on_redis
def test_redis_persists_messages_and_evicts_none(broker: str, topology: Topology, secret: dict[str, str]) -> None:
    settings = redis_client(topology, secret).config_get("*")
    assert settings["appendonly"] == "yes"
    assert settings["maxmemory-policy"] == "noeviction"


@on_rabbitmq
@pytest.mark.parametrize(("user", "password"), [("guest", "guest"), ("airflow", "wrong"), ("airflow", "")])
def test_rabbitmq_refuses_guests_and_wrong_passwords(broker: str, topology: Topology, user: str, password: str) -> None:
    with pytest.raises(ProbableAuthenticationError):
        amqp_connection(topology, user, password)


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
    with amqp_connection(topology, "airflow", secret["rabbitmq_password"]) as connection:
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


def test_only_the_chosen_broker_runs(broker: str, queue: Guest) -> None:
    LAB.eventually(lambda: check_only_broker(queue, broker), within=60)


def test_flower_reads_the_length_of_every_queue(broker: str, topology: Topology, flower_api: httpx.Client) -> None:
    def lengths() -> None:
        flower_api.get("workers", params={"refresh": "true"}).raise_for_status()
        queues = flower_api.get("queues/length").raise_for_status().json()["active_queues"]
        known = {queue["name"]: queue["messages"] for queue in queues}
        assert known == {queue: 0 for worker in topology.with_role("worker") for queue in worker.queues}

    LAB.eventually(lengths, within=60)


# Storage


@pytest.mark.destructive
def test_depth_of_the_queue_is_the_number_of_queued_tasks(
    broker: str, airflow: Airflow, machines: Machines, topology: Topology, secret: dict[str, str]
) -> None:
    with stopped_workers(machines, topology):
        run_id = airflow.trigger("dist_example")

        def queued() -> None:
            assert set(airflow.states("dist_example", run_id).values()) == {"queued"}
            assert [queue_depth(topology, secret, queue) for queue in ("queue_1", "queue_2")] == [1, 1]

        LAB.eventually(queued, within=60)
    assert airflow.wait("dist_example", run_id, within=90)["state"] == "success"


# Failures


STALL = """
PYTHONPATH=/vagrant /opt/airflow/venv/bin/python - <<'END'
from pathlib import Path
from celery import Celery
app = Celery(broker=Path("/opt/airflow/secrets/broker_url_{broker}").read_text())
for queue in {queues}:
    app.control.cancel_consumer(queue, destination=["{name}"], reply=True)
END
"""


@pytest.mark.destructive
@pytest.mark.drawn
def test_worker_that_takes_no_tasks_is_restarted(
    broker: str, airflow: Airflow, machines: Machines, topology: Topology
) -> None:
    worker = machines.guest("worker1")
    unit = "airflow-worker"
    number = worker.run("systemctl show --property Id --value %s", unit).removesuffix(".service").rpartition("-")[2]
    pid = worker.run("systemctl show --property MainPID --value %s", unit)
    worker.run_script(STALL.format(broker=broker, queues=worker.machine.queues, name=f"celery@worker1-{number}"))
    run_id = airflow.trigger("dist_example")

    def restarted() -> None:
        assert worker.run("systemctl show --property MainPID --value %s", unit) != pid
        assert "is connected but listens to" in worker.run("journalctl --unit airflow-worker-watch --no-pager")

    LAB.eventually(restarted, within=180)
    assert airflow.wait("dist_example", run_id, within=90)["state"] == "success"
