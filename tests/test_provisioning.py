"""Provisioning is idempotent. More workers join while the others work, and are remembered."""

from __future__ import annotations

import json
import subprocess

import pytest

from lab.client import Airflow
from lab.machines import Guest, Machines
from lab.topology import Topology
from tests.support import ROOT
from tests.support.lab import LAB
from tests.support.provisioning import changed_setting, check_unchanged
from tests.support.traffic import check_pinned_tasks, client_traffic

pytestmark = [pytest.mark.one_broker, pytest.mark.usefixtures("broker")]


def started(guest: Guest) -> str:
    """Return when each running service of a machine was started."""
    units = "'airflow*' 'postgresql*' 'redis*' 'rabbitmq*' 'nginx*' 'ssh*'"
    return guest.run(f"systemctl show --state active --property Id,ActiveEnterTimestampMonotonic {units}")


def test_provisioning_again_changes_and_restarts_nothing(any_machine: Guest) -> None:
    before = started(any_machine)
    name = any_machine.machine.name
    done = subprocess.run(["vagrant", "provision", name], check=True, capture_output=True, text=True, cwd=ROOT)
    check_unchanged(done.stdout)
    assert started(any_machine) == before


@pytest.mark.destructive
@pytest.mark.drawn
def test_changed_setting_fails_no_request_and_interrupts_no_task(
    airflow: Airflow, machines: Machines, topology: Topology
) -> None:
    """The masters restart their services one after the other; the old worker ends its tasks while the new one runs."""
    masters = [machines.guest(name) for name in ("master1", "master2")]
    show = "systemctl show --value --property ActiveEnterTimestampMonotonic airflow-api-server airflow-scheduler"
    started = [guest.run(show) for guest in masters]
    run_id = airflow.trigger("ledger", tasks=16, seconds=60)  # longer than a worker may take to stop
    LAB.eventually(lambda: _all_run(airflow, run_id), within=60)
    with changed_setting(), client_traffic(airflow) as answers:
        machines.provision()
    assert all(old != guest.run(show) for old, guest in zip(started, masters, strict=True))
    assert set(answers) == {"200"}
    assert len(answers) > 200
    assert airflow.wait("ledger", run_id, within=150)["state"] == "success", airflow.counts("ledger", run_id)
    with LAB.connect() as connection:
        rows = connection.execute("SELECT attempt, committed FROM attempts WHERE run_id = %s", [run_id]).fetchall()
    assert rows == [(1, True)] * 16
    machines.provision()


def _all_run(airflow: Airflow, run_id: str) -> None:
    states = [*airflow.states("ledger", run_id).values()]
    assert states.count("running") == 16, states


@pytest.mark.destructive
def test_more_workers_join_and_are_remembered(airflow: Airflow, machines: Machines) -> None:
    others = {name: started(machines.guest(name)) for name in ("broker", "master1", "worker1")}
    machines.up(WORKERS="4")
    try:
        assert list(machines.status()) == ["broker", "master1", "master2", "worker1", "worker2", "worker3", "worker4"]
        assert set(machines.status().values()) == {"running"}
        assert json.loads((ROOT / ".lab/choices.json").read_text())["workers"] == 4
        assert machines.guest("worker4").run("systemctl is-active airflow-worker") == "active"
        assert others == {name: started(machines.guest(name)) for name in others}
        check_pinned_tasks(airflow)
        refused = subprocess.run(
            ["vagrant", "up"], env={"PATH": "/usr/bin:/bin", "WORKERS": "2"}, capture_output=True, text=True, cwd=ROOT
        )
        assert refused.returncode != 0
        assert "vagrant destroy -f worker3 worker4" in refused.stderr
    finally:
        for name in ("worker3", "worker4"):
            machines.destroy(name)
        machines.up(WORKERS="2")
    check_pinned_tasks(airflow)
