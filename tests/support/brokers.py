"""Clients of the broker, and the state of its two queue servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pika
import pytest
import redis

from lab.machines import Guest, Machines
from lab.topology import Topology
from tests.support.lab import LAB

OTHER = {"redis": "rabbitmq", "rabbitmq": "redis"}
on_redis = pytest.mark.parametrize("broker", ["redis"], indirect=True)
on_rabbitmq = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)


def amqp_connection(topology: Topology, user: str, password: str) -> pika.BlockingConnection:
    login = pika.PlainCredentials(user, password)
    host, port = topology.with_role("queue")[0].address, topology.ports["rabbitmq"]
    return pika.BlockingConnection(
        pika.ConnectionParameters(host, port, "airflow", login, socket_timeout=5, connection_attempts=1)
    )


def redis_client(topology: Topology, secret: dict[str, str]) -> redis.Redis:
    host, port = topology.with_role("queue")[0].address, topology.ports["redis"]
    return redis.Redis(host, port, password=secret["redis_password"])


def queue_depth(topology: Topology, secret: dict[str, str], queue: str) -> int:
    """Returns how many tasks wait in a queue of the chosen broker."""
    if topology.broker == "redis":
        return int(redis_client(topology, secret).llen(queue))  # type: ignore[arg-type]
    with amqp_connection(topology, "airflow", secret["rabbitmq_password"]) as connection:
        return connection.channel().queue_declare(queue, passive=True).method.message_count


def check_only_broker(queue: Guest, broker: str) -> None:
    """Asserts that a broker runs, and the other does not."""
    other = queue.host.service(LAB.topology.queue_units(OTHER[broker])[0])
    assert queue.host.service(LAB.topology.queue_units(broker)[0]).is_running
    assert not other.is_running
    assert not other.is_enabled


@contextmanager
def stopped(machines: Machines, topology: Topology, role: str, stop: str, start: str) -> Iterator[None]:
    """Call the command `stop` on all machines with a role, and `start` at the end."""
    guests = [machines.guest(machine.name) for machine in topology.with_role(role)]
    for guest in guests:
        guest.run(stop)
    try:
        yield
    finally:
        for guest in guests:
            guest.run(start)


def stopped_workers(machines: Machines, topology: Topology) -> AbstractContextManager[None]:
    return stopped(machines, topology, "worker", "systemctl stop airflow-worker", "systemctl start airflow-worker")
