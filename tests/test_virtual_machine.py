"""The broker as a virtual machine in libvirt, from our box; emulated without KVM.

It is brought up in a copy of the checkout while the other tests run (`tests/support/virtual_machine.py`). The
tests of a machine run there.
"""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import time

import pytest

from lab import faults
from lab.checkout import Lab
from lab.machines import Guest
from tests.support.virtual_machine import BOX, BOX_AGAIN, VirtualMachine

pytestmark = pytest.mark.drawn("virtual machine")
OF_A_MACHINE = ["tests/test_machines.py", "tests/test_services.py", "tests/test_broker.py"]


@pytest.fixture(scope="module")
def lab(virtual_machine: VirtualMachine) -> Lab:
    return virtual_machine.resume()


@pytest.fixture
def broker(lab: Lab) -> Guest:
    return lab.machines.guest("broker")


def test_broker_from_our_box_passes_its_tests(virtual_machine: VirtualMachine, broker: Guest) -> None:
    asked = ["-k", "broker and redis and not flower and not depth and not move and not takes"]
    subprocess.run([sys.executable, "-m", "pytest", *OF_A_MACHINE, *asked], check=True, cwd=virtual_machine.root)


@pytest.mark.thorough
def test_box_that_is_built_again_is_the_same(virtual_machine: VirtualMachine, broker: Guest) -> None:
    boxes = [virtual_machine.root / box for box in (BOX, BOX_AGAIN)]
    assert len({hashlib.sha256(box.read_bytes()).hexdigest() for box in boxes}) == 1


def test_vagrant_accepts_the_settings(virtual_machine: VirtualMachine, broker: Guest) -> None:
    subprocess.run(["vagrant", "validate"], check=True, capture_output=True, cwd=virtual_machine.root)


def test_folders_are_shared_both_ways(virtual_machine: VirtualMachine, broker: Guest) -> None:
    broker.run("touch /opt/airflow/logs/from-the-machine")
    assert (virtual_machine.root / "logs" / "from-the-machine").exists()
    (virtual_machine.root / "dags" / "from_the_host.py").touch()
    assert broker.host.file("/opt/airflow/dags/from_the_host.py").exists


def test_wrong_clock_is_corrected(lab: Lab, broker: Guest) -> None:
    faults.FAULTS["skew"].inject(lab, "broker", "-120")
    assert time.time() - float(broker.run("date +%s")) > 60
    assert "broker on-time" in faults.heal(lab, ["broker"])
    assert abs(time.time() - float(broker.run("date +%s"))) < 10


def test_clock_that_is_wrong_by_a_second_is_corrected(lab: Lab, broker: Guest) -> None:
    faults.FAULTS["skew"].inject(lab, "broker", "1")
    assert "broker on-time" in faults.heal(lab, ["broker"])
    assert broker.run("systemctl is-active systemd-timesyncd") == "active"


def test_disk_fills_up_and_is_emptied(lab: Lab, broker: Guest) -> None:
    write = "runuser -u vagrant -- dd if=/dev/zero of=/home/vagrant/more bs=1M count=8"
    faults.FAULTS["fill"].inject(lab, "broker", "")
    with pytest.raises(AssertionError, match="No space left"):
        broker.run(write)
    assert "broker emptied" in faults.heal(lab, ["broker"])
    broker.run(f"{write} && rm /home/vagrant/more")


def answer(connection: socket.socket) -> bytes:
    """Send Redis a request and return its answer, or b"" if the connection is closed; TimeoutError without an answer.

    Without a password Redis refuses the request, which is an answer too.
    """
    try:
        connection.sendall(b"PING\r\n")
        return connection.recv(100)
    except (BrokenPipeError, ConnectionResetError):
        return b""


def test_power_off_closes_no_connection(lab: Lab, broker: Guest) -> None:
    address = (broker.machine.address, lab.topology.ports["redis"])
    with connected(address) as connection:  # shows how a closed connection looks from here
        faults.FAULTS["kill"].inject(lab, "broker", "queue")
        assert answer(connection) == b""
    with lab.eventually(lambda: connected(address), within=60) as connection:
        faults.FAULTS["crash"].inject(lab, "broker", "")
        with pytest.raises(TimeoutError):
            answer(connection)


def connected(address: tuple[str, int]) -> socket.socket:
    """Return a connection over which Redis has just answered; AssertionError if there is none."""
    try:
        connection = socket.create_connection(address, timeout=30)
    except OSError as error:
        raise AssertionError(error) from error
    assert answer(connection), "closed"
    return connection
