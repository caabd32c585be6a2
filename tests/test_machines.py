"""The machines: they run, have names, know each other, and do not accept a public key of Vagrant."""

from __future__ import annotations

import subprocess

import pytest

from lab.machines import Guest, Machines
from lab.topology import Topology
from tests.support import ROOT
from tests.support.checkout import Checkout


def test_vagrant_knows_the_machines_of_the_topology(machines: Machines, topology: Topology) -> None:
    assert machines.status() == {machine.name: "running" for machine in topology.machines}


def test_no_unit_of_the_system_has_failed(any_machine: Guest) -> None:
    assert any_machine.run("systemctl --failed --plain --no-legend --no-pager") == ""
    assert any_machine.run("systemctl is-system-running --wait") == "running"


def test_machine_is_debian_13_with_python_3_13(any_machine: Guest) -> None:
    assert any_machine.host.system_info.codename == "trixie"
    assert any_machine.run("/opt/airflow/venv/bin/python --version").startswith("Python 3.13.")


def test_machine_has_its_name_and_address(any_machine: Guest, topology: Topology) -> None:
    machine = any_machine.machine
    assert any_machine.run("hostname") == machine.name
    assert machine.address in any_machine.run("hostname -I").split()


def test_machine_resolves_the_names_of_all_machines(any_machine: Guest, topology: Topology) -> None:
    for name, address in topology.hosts.items():
        assert any_machine.run("getent ahostsv4 %s", name).split()[0] == address


def test_vagrants_public_key_is_not_accepted(any_machine: Guest) -> None:
    keys = any_machine.run("cat /home/vagrant/.ssh/authorized_keys")
    assert keys
    assert "vagrant insecure public key" not in keys


def test_network_of_a_running_checkout_is_refused(checkout: Checkout, topology: Topology) -> None:
    assert f"the network {topology.network} is in use: machines of {ROOT} are running on it" in checkout.refused(
        "up", PROVIDER=topology.provider
    )


@pytest.mark.parametrize("command", ["status", "validate"])
def test_vagrant_accepts_the_checkout(command: str) -> None:
    subprocess.run(["vagrant", command], check=True, capture_output=True, cwd=ROOT)
