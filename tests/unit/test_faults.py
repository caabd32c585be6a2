"""What a fault strikes, computed from the topology."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lab.drills import DRILLS
from lab.faults import ALL, FAULTS, UnknownError, endpoints, services
from lab.readme import as_shipped

LAB = as_shipped()


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("queue", ["192.168.56.10 6379"]),
        ("load_balancer", ["192.168.56.10 8080"]),
        ("api_server", ["192.168.56.11 8080", "192.168.56.12 8080"]),
        ("worker2", ["192.168.56.22"]),
    ],
)
def test_peer_is_what_nftables_matches(peer: str, expected: list[str]) -> None:
    assert endpoints(LAB, peer) == expected


def test_queue_is_the_chosen_broker() -> None:
    lab = replace(LAB, broker="rabbitmq")
    assert endpoints(lab, "queue") == ["192.168.56.10 5672"]
    assert services(lab, "broker")["queue"] == "rabbitmq-server"
    assert services(lab, "worker1") == {"worker": "airflow-worker", "log_server": "airflow-log-server"}


def test_peer_that_there_is_not_is_named_with_those_that_there_are() -> None:
    with pytest.raises(UnknownError, match="'moon' is nothing to cut a machine from: database, queue"):
        endpoints(LAB, "moon")


@pytest.mark.parametrize("name", DRILLS)
def test_drill_strikes_what_there_is(name: str) -> None:
    drill = DRILLS[name]
    victims = drill.victims(LAB)
    assert victims == [ALL] or set(victims) <= {machine.name for machine in LAB.machines}
    assert bool(drill.target) == bool(FAULTS[drill.fault].takes)
    if FAULTS[drill.fault].takes == "service":
        assert all(drill.target in services(LAB, victim) for victim in victims)
    if FAULTS[drill.fault].takes == "peers":
        assert endpoints(LAB, drill.target)
