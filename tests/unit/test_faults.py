"""What a fault affects, computed from the topology."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from lab.checkout import Lab
from lab.faults import UnknownError, endpoints, partition
from tests.support.shipped import SHIPPED


def at(role: str, *ports: str) -> list[str]:
    return [f"{one.address} {SHIPPED.ports[port]}" for one in SHIPPED.with_role(role) for port in ports]


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("queue", at("queue", "redis")),
        ("load_balancer", at("load_balancer", "load_balancer", "flower")),
        ("api_server", at("api_server", "api_server")),
        ("worker2", [SHIPPED["worker2"].address]),
        ("broker", [SHIPPED["broker"].address]),  # the machine, not the role
        ("redis", at("queue", "redis")),
        ("api-server", at("api_server", "api_server")),
    ],
)
def test_peer_is_resolved_to_addresses_and_ports(peer: str, expected: list[str]) -> None:
    assert expected
    assert endpoints(SHIPPED, peer) == expected


def test_queue_is_the_chosen_broker() -> None:
    lab = replace(SHIPPED, broker="rabbitmq")
    assert endpoints(lab, "queue") == at("queue", "rabbitmq", "rabbitmq_management")
    assert lab.services(lab.with_role("queue")[0].name)["queue"] == "rabbitmq-server"
    assert lab.services("worker1") == {"worker": "airflow-worker", "log_server": "airflow-log-server"}


def test_unknown_peer_is_named_with_those_that_exist() -> None:
    with pytest.raises(UnknownError, match="'moon' is not a machine or a role with a port: database, queue"):
        endpoints(SHIPPED, "moon")


def test_cut_from_others_needs_no_names() -> None:
    """`partition worker1 others` is about all machines of the lab, whichever they are."""
    commands: list[str] = []
    guest = SimpleNamespace(run_script=commands.append)
    lab = SimpleNamespace(topology=SHIPPED, machines=SimpleNamespace(guest=lambda _: guest))
    partition(cast(Lab, lab), "worker1", "others")
    for name, address in SHIPPED.hosts.items():
        assert (f"ip saddr {address} " in commands[0]) == (name != "worker1")
