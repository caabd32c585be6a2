"""What a fault affects, computed from the topology."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lab.drills import DRILLS
from lab.faults import FAULTS, UnknownError, endpoints
from lab.topology import ALL
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


@pytest.mark.parametrize("name", DRILLS)
def test_drill_affects_existing_machines_and_services(name: str) -> None:
    drill = DRILLS[name]
    victims = drill.victims(SHIPPED)
    assert victims == (ALL,) or set(victims) <= {machine.name for machine in SHIPPED.machines}
    assert bool(drill.target) == bool(FAULTS[drill.fault].takes)
    if FAULTS[drill.fault].takes == "service":
        assert all(drill.target in SHIPPED.services(victim) for victim in victims)
    if FAULTS[drill.fault].takes == "peers":
        assert endpoints(SHIPPED, drill.target)
