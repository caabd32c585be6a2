"""The model that is read from lab.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab.topology import ROOT, Topology


@pytest.fixture
def document() -> dict[str, Any]:
    return json.loads((ROOT / "config/lab.json").read_text())


def test_machines_are_those_of_the_design(document: dict[str, Any]) -> None:
    topology = Topology.from_document(document)
    assert {machine.name: machine.address for machine in topology.machines} == {
        "broker": "192.168.56.10",
        "master1": "192.168.56.11",
        "master2": "192.168.56.12",
        "worker1": "192.168.56.21",
        "worker2": "192.168.56.22",
    }
    assert topology["worker2"].queues == ("default", "queue_2")


def test_more_workers_follow_in_the_order_of_the_file(document: dict[str, Any]) -> None:
    topology = Topology.from_document(document | {"workers": 3})
    assert [worker.name for worker in topology.with_role("worker")] == ["worker1", "worker2", "worker3"]
    assert topology["worker3"].address == "192.168.56.23"
    with pytest.raises(KeyError):
        topology["worker4"]


def test_addresses_of_workers_to_come_are_known_already(document: dict[str, Any]) -> None:
    assert Topology.from_document(document).hosts["worker4"] == "192.168.56.24"


def test_endpoints_are_lists(document: dict[str, Any]) -> None:
    topology = Topology.from_document(document)
    assert topology.endpoints("api_server", "api_server") == ["master1:8080", "master2:8080"]
    assert topology.endpoints("database", "postgresql") == ["broker:5432"]


def test_timings_are_longer_by_the_time_factor(document: dict[str, Any]) -> None:
    slow = Topology.from_document(document | {"time_factor": 8})
    assert slow.timings == {name: 8 * value for name, value in Topology.from_document(document).timings.items()}


@pytest.mark.parametrize("remembered", ["lab.json", "choices.json"])
def test_lab_of_the_last_provisioning_overrides_the_file(
    document: dict[str, Any], tmp_path: Path, remembered: str
) -> None:
    for folder in ("config", ".lab"):
        (tmp_path / folder).mkdir()
    (tmp_path / "config/lab.json").write_text(json.dumps(document))
    (tmp_path / ".lab" / remembered).write_text('{"broker": "rabbitmq", "workers": 1, "provider": "docker"}')
    topology = Topology.load(tmp_path)
    assert topology.broker == "rabbitmq"
    assert len(topology.with_role("worker")) == 1
