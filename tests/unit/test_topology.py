"""The model of the lab, built from the resolved document."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lab.checkout import Lab, NoLabError
from lab.roles import ROLES
from lab.topology import Topology
from tests.support import ROOT
from tests.support.shipped import DOCUMENT, SHIPPED


def test_machines_are_those_of_the_design() -> None:
    assert {machine.name: machine.address for machine in SHIPPED.machines} == {
        "broker": "192.168.56.10",
        "master1": "192.168.56.11",
        "master2": "192.168.56.12",
        "worker1": "192.168.56.21",
        "worker2": "192.168.56.22",
    }
    assert SHIPPED["worker2"].queues == ("default", "queue_2")
    with pytest.raises(KeyError):
        SHIPPED["worker4"]


def test_addresses_of_workers_that_may_join_are_known() -> None:
    assert SHIPPED.hosts["worker4"] == "192.168.56.24"


def test_endpoints_are_lists() -> None:
    assert SHIPPED.endpoints("api_server", "api_server") == ["master1:8081", "master2:8081"]
    queue = SHIPPED.with_role("queue")[0].name
    assert replace(SHIPPED, broker="rabbitmq").endpoints("queue", "broker") == [f"{queue}:5672"]


def test_host_uses_a_forwarded_port_on_docker_and_else_the_address_of_the_machine() -> None:
    assert SHIPPED.reach("flower") == "localhost:5555"
    address = SHIPPED.with_role("queue")[0].address
    assert replace(SHIPPED, provider="libvirt").reach("rabbitmq_management") == f"{address}:15672"


def test_lab_is_read_as_the_last_provisioning_resolved_it(tmp_path: Path) -> None:
    (tmp_path / ".lab").mkdir()
    (tmp_path / ".lab" / "lab.json").write_text(json.dumps(DOCUMENT | {"broker": "rabbitmq"}))
    assert Topology.load(tmp_path).broker == "rabbitmq"


@pytest.mark.parametrize("change", [{"colour": "red"}, {"machines": {"a": {}}}])
def test_lab_that_another_version_resolved_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / ".lab").mkdir()
    (tmp_path / "config" / "lab.json").touch()
    (tmp_path / ".lab" / "lab.json").write_text(json.dumps(DOCUMENT | change))
    with pytest.raises(NoLabError, match=r"\.lab/lab\.json: the resolved lab has other keys .*Next: make up"):
        Lab.find(tmp_path)


def test_table_of_roles_names_ports_and_roles_that_exist() -> None:
    description = json.loads((ROOT / "config" / "lab.json").read_text())
    listening = [port for role in ROLES.values() for port in role.all_ports()]
    assert sorted(listening) == sorted(description["ports"])
    assert set(description["forwarded_ports"]) <= set(listening)
    for role in ROLES.values():
        for peer, port in role.connects.items():
            assert port in [*ROLES[peer].all_ports(), "broker"], (peer, port)


def test_each_role_has_a_folder() -> None:
    for role in ROLES:
        assert (ROOT / "provision" / "roles" / role / "deploy.py").exists()
