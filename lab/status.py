"""The state of the lab, asked of every part at once, and what is wrong with it."""

from __future__ import annotations

import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg
from amqp.exceptions import AMQPError
from celery import Celery
from kombu.exceptions import ChannelError, OperationalError
from redis.exceptions import RedisError

from lab.client import Airflow, connect, secrets
from lab.faults import services
from lab.machines import Machines
from lab.topology import QUEUE_UNITS, Topology

JOBS = {"scheduler": "SchedulerJob", "dag_processor": "DagProcessorJob", "triggerer": "TriggererJob"}
ANSWER = 4  # seconds that a machine or a worker has to answer
SETTLED = 10  # seconds after which a queued task must have a message, times the lab's factor


@dataclass
class Status:
    """What each part says of itself; `problems` names all that is not as it should be, a line each."""

    broker: str
    services: dict[str, dict[str, str]] = field(default_factory=dict)  # machine: role: systemd's ActiveState
    heartbeats: dict[str, dict[str, float]] = field(default_factory=dict)  # role: machine: seconds ago
    workers: dict[str, dict[str, Any]] = field(default_factory=dict)  # machine: queues, running, draining
    queues: dict[str, int] = field(default_factory=dict)  # queue: tasks that wait in it
    tasks: dict[str, int] = field(default_factory=dict)  # Airflow's state: task instances
    runs: list[dict[str, str]] = field(default_factory=list)  # the newest DAG runs
    database: dict[str, Any] = field(default_factory=dict)  # version, connections, size in MiB
    problems: list[str] = field(default_factory=list)


def collect(machines: Machines) -> Status:
    """Ask every machine, Airflow, the workers, the broker and the database, all at the same time."""
    topology = machines.topology
    status = Status(topology.broker)
    parts = {
        "the api-servers": lambda: _api_servers(status, topology),
        "Airflow": lambda: _airflow(status, topology, Airflow.of_this_checkout()),
        "the workers": lambda: _workers(status, topology),
        "the broker": lambda: _queues(status, topology),
        "the database": lambda: _database(status, topology),
        "the queued tasks": lambda: _without_message(status, topology),
    }
    with ThreadPoolExecutor() as pool:
        status.services = {machine.name: {} for machine in topology.machines}
        answers = [pool.submit(_services, status, machines, machine.name) for machine in topology.machines]
        asked = {name: pool.submit(part) for name, part in parts.items()}
        for answer in answers:
            answer.result()
        for name, answer in asked.items():
            try:
                answer.result()
            except (httpx.HTTPError, psycopg.Error, OperationalError, AMQPError, RedisError, OSError) as error:
                status.problems.append(f"{name}: no answer ({_line(error)})")
    return status


def problems(machines: Machines) -> list[str]:
    """Return what is wrong with the lab; nothing if all is well and no work is left undone."""
    status = collect(machines)
    left = [f"{count} tasks are {state}" for state, count in status.tasks.items()]
    # A worker that was away may still be at work on what Airflow has given to another.
    left += [f"{name} runs {worker['running']} tasks" for name, worker in status.workers.items() if worker["running"]]
    return status.problems + left


def _wait(topology: Topology) -> int:
    return ANSWER * topology.time_factor


def _services(status: Status, machines: Machines, name: str) -> None:
    units = services(machines.topology, name)
    wait = _wait(machines.topology)
    left = [unit for broker, unit in QUEUE_UNITS.items() if broker != machines.topology.broker and "queue" in units]
    show = f"systemctl show --value --property ActiveState {' '.join([*units.values(), *left])}"
    command = ["ssh", "-F", str(machines.ssh_config), "-o", f"ConnectTimeout={wait}", name, show]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * wait, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        status.problems.append(f"{name}: does not answer (vagrant up {name}, or lab heal)")
        return
    states = dict(zip([*units, *left], done.stdout.split(), strict=True))
    status.services[name] = {role: states[role] for role in units}
    status.problems += [
        f"{name}: {unit} still runs: the move has not ended (vagrant provision says what it waits for)"
        for unit in left
        if states[unit] == "active"
    ]
    for role, state in status.services[name].items():
        if state != "active":
            status.problems.append(f"{name}: {role} is {state} (vagrant ssh {name} -c 'journalctl -u {units[role]}')")


def _api_servers(status: Status, topology: Topology) -> None:
    """Ask each by itself: nginx answers for both when one is not there, or has only just been started."""
    for machine in topology.with_role("api_server"):
        url = f"http://{machine.address}:{topology.ports['api_server']}/api/v2/version"
        try:
            httpx.get(url, timeout=_wait(topology), trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            status.problems.append(f"{machine.name}: api_server does not answer ({_line(error)})")


def _airflow(status: Status, topology: Topology, airflow: Airflow) -> None:
    for part, health in airflow.get("monitor/health").items():
        if health["status"] != "healthy":
            status.problems.append(f"Airflow's {part} is {health['status'] or 'not there'}")
    now = datetime.now(UTC)
    # The newest: Airflow drops those that are dead from the page that it has cut.
    jobs = airflow.get("jobs", is_alive=True, limit=100, order_by="-latest_heartbeat")["jobs"]
    for role, kind in JOBS.items():
        beats = {
            job["hostname"]: (now - datetime.fromisoformat(job["latest_heartbeat"])).total_seconds()
            for job in sorted(jobs, key=lambda job: job["latest_heartbeat"])
            if job["job_type"] == kind
        }
        status.heartbeats[role] = beats
        status.problems += [
            f"{machine.name}: {role} has no heartbeat"
            for machine in topology.with_role(role)
            if machine.name not in beats
        ]
    for run in airflow.get("dags/~/dagRuns", order_by="-run_after", limit=5)["dag_runs"]:
        status.runs.append({key: run[key] or "" for key in ("dag_id", "run_after", "state")})
    params = {"state": ["queued", "running"], "limit": 1000}
    left = airflow.get("dags/~/dagRuns/~/taskInstances", **params)["task_instances"]
    status.tasks = dict(Counter(task["state"] for task in left))


def _workers(status: Status, topology: Topology) -> None:
    """Ask each Celery worker: a machine has several while one is replaced by the next."""
    names = {machine.name for machine in topology.machines}
    query = "SELECT machine, unit, service, broker FROM broker_clients"
    with connect(topology) as connection:
        clients = [row for row in connection.execute(query).fetchall() if row[0] in names]
    status.problems += [
        f"{machine}: {unit} still works with {broker}"
        for machine, unit, _, broker in clients
        if broker != topology.broker
    ]
    nodes = {
        f"celery@{machine}-{unit.rpartition('-')[2]}": machine
        for machine, unit, service, broker in clients
        if service == "worker" and broker == topology.broker
    }
    inspect = celery(topology).control.inspect(list(nodes), timeout=_wait(topology))
    queues, active = inspect.active_queues() or {}, inspect.active() or {}
    for worker in topology.with_role("worker"):
        own = [node for node, machine in nodes.items() if machine == worker.name]
        listens = sorted({queue["name"] for node in own for queue in queues.get(node, [])})
        running = {node: len(active.get(node, [])) for node in own}
        draining = sum(count for node, count in running.items() if node in queues and not queues[node])
        status.workers[worker.name] = {"queues": listens, "running": sum(running.values()), "draining": draining}
        if missing := sorted(set(worker.queues) - set(listens)):
            status.problems.append(f"{worker.name}: takes no tasks from {', '.join(missing)}")


def _queues(status: Status, topology: Topology) -> None:
    with celery(topology).connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, timeout=_wait(topology))
        for queue in sorted({queue for worker in topology.with_role("worker") for queue in worker.queues}):
            try:
                with connection.channel() as channel:
                    status.queues[queue] = channel.queue_declare(queue, passive=True).message_count
            except ChannelError:
                status.queues[queue] = 0


def _without_message(status: Status, topology: Topology) -> None:
    """Compare the tasks that Airflow calls queued with the messages that wait in queues or that workers have received.

    What RabbitMQ has in a queue can be counted and not read, so the comparison is one of numbers on both brokers.
    """
    before = _queued(topology)
    if not before:
        return
    app = celery(topology)
    depth = 0
    with app.connection_for_read() as connection:
        for queue in set(before.values()):
            with suppress(ChannelError), connection.channel() as channel:  # ChannelError: the queue does not exist
                depth += channel.queue_declare(queue, passive=True).message_count
    inspect = app.control.inspect(timeout=_wait(topology), limit=len(topology.with_role("worker")))
    answers = [*(inspect.reserved() or {}).values(), *(inspect.active() or {}).values()]
    received = {task["id"] for tasks in answers for task in tasks}
    count = len(before.keys() & _queued(topology).keys() - received) - depth
    if count > 0:
        status.problems.append(f"{count} queued tasks have no message that a queue or a living worker holds")


def _queued(topology: Topology) -> dict[str, str]:
    """Return the Celery ids of the tasks that have been queued for a while, and their queues."""
    query = """
        SELECT external_executor_id, queue FROM task_instance
        WHERE state = 'queued' AND external_executor_id IS NOT NULL
        AND queued_dttm < now() - make_interval(secs => %s)
    """
    with connect(topology, "airflow") as connection:
        return dict(connection.execute(query, [SETTLED * topology.time_factor]).fetchall())


def _database(status: Status, topology: Topology) -> None:
    query = "SELECT version(), (SELECT count(*) FROM pg_stat_activity), pg_database_size('airflow') / 1048576"
    with connect(topology) as connection:
        version, connections, size = connection.execute(query).fetchone() or ("", 0, 0)
    status.database = {"version": version.split(" (")[0], "connections": connections, "size_mib": size}


def celery(topology: Topology) -> Celery:
    """Return a client of the chosen broker, by address: the host does not know the machines' names."""
    endpoint = f"{topology.with_role('queue')[0].address}:{topology.ports[topology.broker]}"
    return Celery(broker=topology.broker_url(endpoint, secrets()[f"{topology.broker}_password"]), set_as_current=False)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
