"""The `lab` command, on a healthy lab and on a lab with faults."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from lab.machines import Machines
from lab.topology import Topology
from tests.support import ROOT
from tests.support.lab import LAB

pytestmark = [  # one broker is enough: the drills run on both
    pytest.mark.destructive,
    pytest.mark.usefixtures("broker"),
    pytest.mark.parametrize("broker", ["redis"], indirect=True),
]


def lab(*words: str, code: int = 0) -> str:
    """Return what a command prints; AssertionError if it does not end with `code`."""
    done = subprocess.run(["bin/lab", *words], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(autouse=True)
def healed() -> Iterator[None]:
    yield
    lab("heal")


def test_status_of_a_healthy_lab_names_no_problem(topology: Topology) -> None:
    shown = LAB.eventually(lambda: lab("status"), within=60)
    assert "the lab is healthy" in shown
    found = json.loads(lab("status", "--json"))
    assert found["problems"] == []
    assert found["broker"] == topology.broker
    assert found["services"].keys() == {machine.name for machine in topology.machines}
    assert {name: set(worker["queues"]) for name, worker in found["workers"].items()} == {
        worker.name: set(worker.queues) for worker in topology.with_role("worker")
    }
    assert found["heartbeats"]["scheduler"].keys() == {"master1", "master2"}


def test_status_names_the_service_that_is_stopped(machines: Machines) -> None:
    machines.guest("master2").run("systemctl stop airflow-triggerer")
    assert "master2: triggerer is inactive" in lab("status", code=1)
    assert "master2 started" in lab("heal")


def test_frozen_machine_is_named_and_thawed() -> None:
    assert "freeze worker2" in lab("fault", "freeze", "worker2")
    assert "worker2: does not answer" in lab("status", code=1)
    assert "worker2: does not answer" in lab("doctor", code=1)
    assert "worker2 does not answer" in lab("fault", "kill", "worker2", "worker", code=2)
    assert "worker2 thawed" in lab("heal")
    LAB.eventually(lambda: lab("status"), within=60)


def test_doctor_finds_nothing_in_a_healthy_lab() -> None:
    assert "match" in lab("doctor")


def test_doctor_names_what_does_not_match_and_its_fixes_work(machines: Machines) -> None:
    # The worker reads this file on this broker; only its log server reads airflow.cfg.
    machines.guest("worker1").run("echo '# changed by hand' >>/opt/airflow/airflow-redis.cfg")
    machines.guest("master1").run(
        "sed 's/.* worker2$/192.168.56.99 worker2/' /etc/hosts >/tmp/h && cat /tmp/h >/etc/hosts"
    )
    lab("fault", "partition", "worker2", "database")
    shown = lab("doctor", code=1)
    assert "worker1: its airflow-redis.cfg differs from the others'\n  fix: vagrant provision worker1" in shown
    assert "master1: resolves worker2 to 192.168.56.99, not 192.168.56.22\n  fix: vagrant provision master1" in shown
    assert "worker2: does not reach broker:5432\n  fix: lab heal" in shown
    for name in ("worker1", "master1"):
        subprocess.run(["vagrant", "provision", name], check=True, capture_output=True, cwd=ROOT)
    assert "worker2 connected" in lab("heal")
    lab("doctor")
