"""What a fault affects, computed from the topology."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lab.drills import DRILLS
from lab.faults import ALL, FAULTS, UnknownError, endpoints
from tests.support.shipped import SHIPPED


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("queue", ["192.168.56.10 6379"]),
        ("load_balancer", ["192.168.56.10 8080", "192.168.56.10 5555"]),
        ("api_server", ["192.168.56.11 8080", "192.168.56.12 8080"]),
        ("worker2", ["192.168.56.22"]),
        ("broker", ["192.168.56.10"]),
        ("redis", ["192.168.56.10 6379"]),
        ("api-server", ["192.168.56.11 8080", "192.168.56.12 8080"]),
    ],
)
def test_peer_is_resolved_to_addresses_and_ports(peer: str, expected: list[str]) -> None:
    assert endpoints(SHIPPED, peer) == expected


def test_queue_is_the_chosen_broker() -> None:
    lab = replace(SHIPPED, broker="rabbitmq")
    assert endpoints(lab, "queue") == ["192.168.56.10 5672", "192.168.56.10 15672"]
    assert lab.services("broker")["queue"] == "rabbitmq-server"
    assert lab.services("worker1") == {"worker": "airflow-worker", "log_server": "airflow-log-server"}


def test_unknown_peer_is_named_with_those_that_exist() -> None:
    with pytest.raises(UnknownError, match="'moon' is not a machine or a role with a port: database, queue"):
        endpoints(SHIPPED, "moon")


@pytest.mark.parametrize("name", DRILLS)
def test_drill_affects_existing_machines_and_services(name: str) -> None:
    drill = DRILLS[name]
    victims = drill.victims(SHIPPED)
    assert victims == [ALL] or set(victims) <= {machine.name for machine in SHIPPED.machines}
    assert bool(drill.target) == bool(FAULTS[drill.fault].takes)
    if FAULTS[drill.fault].takes == "service":
        assert all(drill.target in SHIPPED.services(victim) for victim in victims)
    if FAULTS[drill.fault].takes == "peers":
        assert endpoints(SHIPPED, drill.target)
