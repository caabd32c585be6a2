"""Messages that no living worker or queue holds: their tasks still run soon, and at their first attempt."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import redis

from lab.client import Airflow
from lab.machines import Machines
from lab.status import collect
from lab.topology import Topology
from tests.support.brokers import on_redis, redis_client, stopped, stopped_workers
from tests.support.lab import LAB

pytestmark = pytest.mark.destructive
WITHIN = 30  # seconds from the death of a worker until a task whose message it had received runs elsewhere
WITHOUT_LOSS = 10  # seconds that a task waits for its start at most; the executor finds a lost message after 15
DAG = "ledger"
QUEUE = "queue_1"
TAG = "a-message-that-a-dead-worker-had-received"


def stopped_schedulers(machines: Machines, topology: Topology) -> AbstractContextManager[None]:
    """Stop the processes of the schedulers with SIGSTOP, and continue them at the end."""
    kill = "systemctl kill --signal {} airflow-scheduler"
    return stopped(machines, topology, "scheduler", kill.format("STOP"), kill.format("CONT"))


def receive_and_die(broker: redis.Redis, renewed: float = 0) -> None:
    """Change Redis as a worker does that receives a message and then loses power, `renewed` seconds later."""
    message = broker.rpop(QUEUE)
    broker.zadd("unacked_index", {TAG: time.time() + renewed})
    broker.hset("unacked", TAG, f'[{message.decode()}, "", "{QUEUE}"]')  # type: ignore[union-attr]


def lose(broker: redis.Redis) -> None:
    """Change Redis as a crash does that loses a message, or a worker that dies before it records the message."""
    broker.rpop(QUEUE)


@on_redis
@pytest.mark.parametrize("take", [receive_and_die, lose], ids=["received by a dead worker", "lost"])
def test_task_without_a_message_is_named_and_runs_at_its_first_attempt(
    broker: str,
    airflow: Airflow,
    machines: Machines,
    topology: Topology,
    secret: dict[str, str],
    take: Callable[[redis.Redis], None],
) -> None:
    with stopped_workers(machines, topology):
        run_id = airflow.trigger("dist_example")
        LAB.eventually(lambda: _waits(redis_client(topology, secret)), within=60, every=0.2)
        with stopped_schedulers(machines, topology):  # they would soon send it again
            take(redis_client(topology, secret))
            LAB.eventually(lambda: _named(machines), within=30)
    run = airflow.wait("dist_example", run_id, within=WITHIN + 30)  # the workers have to start
    assert run["state"] == "success"
    assert {task["try_number"] for task in airflow.tasks("dist_example", run_id)} == {1}


def _waits(broker: redis.Redis) -> None:
    assert broker.llen(QUEUE) == 1


def _named(machines: Machines) -> None:
    problems = collect(LAB).problems
    assert "1 queued tasks have no message that a queue or a living worker holds" in problems, problems


@on_redis
@pytest.mark.drawn
def test_message_that_stayed_in_redis_is_sent_again_after_a_move(
    broker: str, airflow: Airflow, machines: Machines, topology: Topology, secret: dict[str, str]
) -> None:
    """RabbitMQ does not show which messages it has: the executor asks when the move has ended."""
    with stopped_workers(machines, topology):
        run_id = airflow.trigger("dist_example")
        LAB.eventually(lambda: _waits(redis_client(topology, secret)), within=60, every=0.2)
        receive_and_die(redis_client(topology, secret), renewed=600)
    machines.provision(BROKER="rabbitmq")
    run = airflow.wait("dist_example", run_id, within=60)
    assert run["state"] == "success", airflow.states("dist_example", run_id)
    assert {task["try_number"] for task in airflow.tasks("dist_example", run_id)} == {1}


@pytest.mark.drawn
@pytest.mark.one_broker
def test_no_message_is_lost_while_nothing_fails(broker: str, airflow: Airflow) -> None:
    """Workers that renew the leases of long tasks receive the messages of short ones."""
    runs = [airflow.trigger(DAG, tasks=2, seconds=1, long=60)]
    LAB.eventually(lambda: _runs(airflow, runs[0]), within=60)
    for _ in range(12):
        runs.append(airflow.trigger(DAG, tasks=6, seconds=0))
        time.sleep(3)
    for run_id in runs:
        assert airflow.wait(DAG, run_id, within=120)["state"] == "success"
    query = "SELECT extract(epoch FROM start_date - queued_dttm), task_id FROM task_instance WHERE run_id = ANY(%s)"
    with LAB.connect("airflow") as database:
        waited = [float(seconds) for seconds, _ in database.execute(query, [runs])]
    assert max(waited) < WITHOUT_LOSS, sorted(waited)[-5:]


def _runs(airflow: Airflow, run_id: str) -> None:
    assert "running" in airflow.states(DAG, run_id).values()


@pytest.mark.drawn
def test_tiny_tasks_survive_the_power_off_of_a_worker(broker: str, airflow: Airflow, machines: Machines) -> None:
    """No task waits for the worker to return, and only the tasks that it ran use another attempt."""
    run_id = airflow.trigger(DAG, tasks=150, seconds=0)
    topology = machines.topology
    LAB.eventually(lambda: _under_way(topology, run_id), within=90, every=0.2)
    try:
        machines.halt("worker1", force=True)
        assert airflow.wait(DAG, run_id, within=120)["state"] == "success", airflow.counts(DAG, run_id)
    finally:
        machines.up("worker1")
    query = "SELECT map_index FROM task_instance WHERE run_id = %s AND task_id = 'work' AND try_number > 1"
    with LAB.connect("airflow") as database:
        again = [index for (index,) in database.execute(query, [run_id])]
    assert len(again) <= topology.worker_concurrency, again


def _under_way(topology: Topology, run_id: str) -> None:
    query = "SELECT state FROM task_instance WHERE run_id = %s AND task_id = 'work'"
    with LAB.connect("airflow") as database:
        states = Counter(state for (state,) in database.execute(query, [run_id]))
    assert states["success"] > 30, states
