"""The lab moves from one broker to the other under load: a changed setting, interrupted, cancelled, a power-off."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import pytest

from lab.client import Airflow
from lab.machines import Guest, Machines
from lab.topology import Topology
from tests.support.brokers import OTHER, check_only_broker, on_rabbitmq, on_redis
from tests.support.lab import LAB
from tests.support.provisioning import changed_setting

pytestmark = pytest.mark.destructive
there_and_back = pytest.mark.drawn("there and back")  # to the other broker, and back: they need this order
DAG = "ledger"
REPORTED = 2  # seconds from a task's last entry until Airflow knows its end; a crash in between executes it again
CRASHED = """
    SELECT task, count(ended), bool_or(attempt = 1 AND host = %(host)s AND started < %(off)s
        AND (ended IS NULL OR ended > %(cut)s - make_interval(secs => %(reported)s))) AS caught, min(attempt)
    FROM attempts WHERE run_id = %(run)s GROUP BY task
"""


def working(airflow: Airflow, run_id: str, queued: int = 5) -> None:
    """Assert that a run has tasks that run, and tasks that wait for a slot."""
    states = [*airflow.states(DAG, run_id).values()]
    assert states.count("running") > 4, states
    assert states.count("queued") >= queued, states


def check_done_once(airflow: Airflow, topology: Topology, run_id: str, tasks: int) -> None:
    """Assert that each task of a run was executed once, at its first attempt."""
    assert airflow.wait(DAG, run_id, within=300)["state"] == "success", airflow.states(DAG, run_id)
    query = "SELECT task, attempt, committed FROM attempts WHERE run_id = %s ORDER BY task"
    with LAB.connect() as connection:
        rows = connection.execute(query, [run_id]).fetchall()
    assert rows == [(task, 1, True) for task in range(tasks)]


@contextmanager
def load(airflow: Airflow, topology: Topology, tasks: int, long: int) -> Iterator[None]:
    """Run tasks of a few seconds and a long one; assert that each was executed once, at its first attempt."""
    run_id = airflow.trigger(DAG, tasks=tasks, seconds=4, long=long)
    LAB.eventually(lambda: working(airflow, run_id), within=60)
    yield
    check_done_once(airflow, topology, run_id, tasks + 1)


def interrupt(command: subprocess.Popen[str]) -> None:
    """Interrupt Vagrant with two signals: after one, it would wait for the end of the current action."""
    for _ in range(2):
        command.send_signal(signal.SIGINT)
        time.sleep(0.5)
    assert command.wait(60) != 0


@there_and_back
def test_lab_moves_to_the_other_broker_under_load(
    broker: str, airflow: Airflow, machines: Machines, topology: Topology
) -> None:
    with load(airflow, topology, tasks=60, long=60):
        with changed_setting():
            machines.provision(BROKER=OTHER[broker])
        again = airflow.trigger("dist_example")
        assert airflow.wait("dist_example", again, within=30)["state"] == "success"


@there_and_back
@on_redis
def test_move_that_is_interrupted_is_completed_by_provisioning_again(
    broker: str, airflow: Airflow, machines: Machines, topology: Topology, queue: Guest
) -> None:
    with load(airflow, topology, tasks=40, long=40):
        first = machines.start_provision(BROKER=broker)
        assert first.stdout
        next(line for line in first.stdout if "master1: configuring" in line)
        second = machines.start_provision()
        interrupt(first)
        output, _ = second.communicate(timeout=120)
        assert second.returncode == 0 or "another process is already executing" in output, output
        machines.provision()
        check_only_broker(queue, broker)


@there_and_back
@on_rabbitmq
def test_machine_that_was_off_moves_when_it_is_up_again(
    broker: str, airflow: Airflow, machines: Machines, topology: Topology, queue: Guest
) -> None:
    with load(airflow, topology, tasks=40, long=40):
        machines.halt("worker2")
        machines.provision(BROKER=broker)
        assert queue.host.service(LAB.topology.queue_units(OTHER[broker])[0]).is_running
        machines.up("worker2")
        check_only_broker(queue, broker)


@pytest.mark.drawn
@on_redis
def test_move_is_cancelled_while_the_old_worker_ends_its_tasks(
    broker: str, airflow: Airflow, machines: Machines, topology: Topology, queue: Guest
) -> None:
    run_id = airflow.trigger(DAG, tasks=16, seconds=60)
    LAB.eventually(lambda: working(airflow, run_id, queued=0), within=60)
    move = machines.start_provision(BROKER=OTHER[broker])
    LAB.eventually(lambda: drains(machines), within=120)
    interrupt(move)
    machines.provision(BROKER=broker)
    check_only_broker(queue, broker)
    check_done_once(airflow, topology, run_id, 16)


def drains(machines: Machines) -> None:
    """Assert that the old worker of worker1 takes no more tasks."""
    assert machines.guest("worker1").run("ls /run/airflow-lab").count("draining-")


def after_12_seconds(machines: Machines) -> None:
    time.sleep(machines.topology.seconds(12))


@pytest.mark.drawn
@pytest.mark.one_broker  # it moves in both directions
def test_worker_loses_power_during_a_move_with_a_changed_setting(
    broker: str, airflow: Airflow, machines: Machines, queue: Guest
) -> None:
    """In both directions: soon after the move has started, and while the old worker ends its tasks."""
    with changed_setting():
        lose_worker_during_move(airflow, machines, queue, OTHER[broker], after_12_seconds)
    lose_worker_during_move(
        airflow, machines, queue, broker, lambda _: LAB.eventually(lambda: drains(machines), within=120)
    )


def database_time() -> datetime:
    with LAB.connect() as connection:
        row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row
    return row[0]


def lose_worker_during_move(
    airflow: Airflow, machines: Machines, queue: Guest, broker: str, moment: Callable[[Machines], None]
) -> None:
    """Cut the power of worker1 during a move; assert that only the tasks that it ran are executed again."""
    runs = [airflow.trigger(DAG, tasks=12, seconds=25), airflow.trigger(DAG, tasks=40, seconds=4)]
    LAB.eventually(lambda: working(airflow, runs[1]), within=90)
    move = machines.start_provision(BROKER=broker)
    moment(machines)
    cut = database_time()
    machines.hypervisor("cut", "worker1")  # not with Vagrant's halt: Vagrant locks a machine while it is provisioned
    off = database_time()
    move.communicate(timeout=300)
    machines.up("worker1")
    check_only_broker(queue, broker)
    for run_id in runs:
        assert airflow.wait(DAG, run_id, within=300)["state"] == "success", airflow.counts(DAG, run_id)
        values = {"host": "worker1", "cut": cut, "off": off, "run": run_id, "reported": REPORTED}
        with LAB.connect() as connection:
            rows = connection.execute(CRASHED, values).fetchall()
        again = {task["map_index"] for task in airflow.tasks(DAG, run_id) if task["try_number"] > 1}
        # A task that started on worker1 may not have written its first entry.
        caught = {task for task, _, caught, first in rows if caught or first > 1}
        assert again <= caught, (again, caught)
        assert {task for task, ends, *_ in rows if ends > 1} <= {task for task, _, caught, _ in rows if caught}, rows
