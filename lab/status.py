"""Collects the state of every part of the lab, at the same time, and what is wrong with it."""

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
from kombu.exceptions import ChannelError, OperationalError
from redis.exceptions import RedisError

from lab import members
from lab.checkout import Lab
from lab.client import Airflow
from lab.roles import ROLES
from lab.topology import BROKERS, Topology

ANSWER = 4  # seconds that a machine or a worker has to answer
SETTLED = 10  # seconds after which a queued task must have a message, times the lab's factor


@dataclass
class Status:
    """What each part reports; `problems` has a line for everything that is not healthy."""

    broker: str
    services: dict[str, dict[str, str]] = field(default_factory=dict)  # machine: role: systemd's ActiveState
    heartbeats: dict[str, dict[str, float]] = field(default_factory=dict)  # role: machine: seconds ago
    workers: dict[str, dict[str, Any]] = field(default_factory=dict)  # machine: queues, running, draining
    queues: dict[str, int] = field(default_factory=dict)  # queue: tasks that wait in it
    tasks: dict[str, int] = field(default_factory=dict)  # Airflow's state: task instances
    runs: list[dict[str, str]] = field(default_factory=list)  # the newest DAG runs
    members: dict[str, dict[str, str]] = field(default_factory=dict)  # role: machine: what it does, of several
    database: dict[str, Any] = field(default_factory=dict)  # version, connections, size in MiB
    problems: list[str] = field(default_factory=list)


def collect(lab: Lab) -> Status:
    """Ask every machine, Airflow, the workers, the broker and the database, all at the same time."""
    topology = lab.topology
    status = Status(topology.broker)
    parts = {
        "the api-servers": lambda: _api_servers(status, lab),
        "Airflow": lambda: _airflow(status, topology, lab.airflow),
        "the workers": lambda: _workers(status, lab),
        "the broker": lambda: _queues(status, lab),
        "the database": lambda: _database(status, lab),
        "the members": lambda: _members(status, lab),
        "the queued tasks": lambda: _without_message(status, lab),
    }
    with ThreadPoolExecutor() as pool:
        status.services = {machine.name: {} for machine in topology.machines}
        answers = [pool.submit(_services, status, lab, machine.name) for machine in topology.machines]
        asked = {name: pool.submit(part) for name, part in parts.items()}
        for answer in answers:
            answer.result()
        for name, answer in asked.items():
            try:
                answer.result()
            except (httpx.HTTPError, psycopg.Error, OperationalError, AMQPError, RedisError, OSError) as error:
                status.problems.append(f"{name}: no answer ({_line(error)})")
    return status


def problems(lab: Lab) -> list[str]:
    """Return what is wrong with the lab; nothing if it is healthy and no task is queued or running."""
    status = collect(lab)
    left = [f"{count} tasks are {state}" for state, count in status.tasks.items()]
    # A worker that was cut off may still run a task that Airflow has given to another worker.
    left += [f"{name} runs {worker['running']} tasks" for name, worker in status.workers.items() if worker["running"]]
    return status.problems + left


def _services(status: Status, lab: Lab, name: str) -> None:
    topology = lab.topology
    units, wait = topology.services(name), lab.seconds(ANSWER)
    # The old queue server: it runs during a move, and must not run after it.
    others = [broker for broker in BROKERS if broker != topology.broker and "queue" in units]
    left = [unit for broker in others for unit in topology.queue_units(broker)]
    show = f"systemctl show --value --property ActiveState {' '.join([*units.values(), *left])}"
    command = ["ssh", "-F", str(lab.machines.ssh_config), "-o", f"ConnectTimeout={wait:.0f}", name, show]
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
            status.problems.append(
                f"{name}: {role} is {state} (vagrant ssh {name} -c 'sudo journalctl -u \"{units[role]}*\"')"
            )


def _api_servers(status: Status, lab: Lab) -> None:
    """Ask each directly: nginx hides one that does not answer."""
    topology = lab.topology
    for machine in topology.with_role("api_server"):
        url = f"http://{machine.address}:{topology.ports['api_server']}/api/v2/version"
        try:
            httpx.get(url, timeout=lab.seconds(ANSWER), trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            status.problems.append(f"{machine.name}: api_server does not answer ({_line(error)})")


def _airflow(status: Status, topology: Topology, airflow: Airflow) -> None:
    for part, health in airflow.get("monitor/health").items():
        if health["status"] != "healthy":
            status.problems.append(f"Airflow's {part} is {health['status'] or 'missing'}")
    now = datetime.now(UTC)
    # The newest first: Airflow removes the dead ones from a page only after it has cut it.
    jobs = airflow.get("jobs", is_alive=True, limit=100, order_by="-latest_heartbeat")["jobs"]
    for role, kind in {name: role.job for name, role in ROLES.items() if role.job}.items():
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


def _workers(status: Status, lab: Lab) -> None:
    """Ask each Celery worker: a machine has several while one is replaced."""
    topology = lab.topology
    names = {machine.name for machine in topology.machines}
    query = "SELECT machine, unit, service, broker FROM broker_clients"
    with lab.connect() as connection:
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
    inspect = lab.celery().control.inspect(list(nodes), timeout=lab.seconds(ANSWER))
    queues, active = inspect.active_queues() or {}, inspect.active() or {}
    for worker in topology.with_role("worker"):
        own = [node for node, machine in nodes.items() if machine == worker.name]
        listens = sorted({queue["name"] for node in own for queue in queues.get(node, [])})
        running = {node: len(active.get(node, [])) for node in own}
        draining = sum(count for node, count in running.items() if node in queues and not queues[node])
        status.workers[worker.name] = {"queues": listens, "running": sum(running.values()), "draining": draining}
        if missing := sorted(set(worker.queues) - set(listens)):
            status.problems.append(f"{worker.name}: takes no tasks from {', '.join(missing)}")


def _queues(status: Status, lab: Lab) -> None:
    with lab.celery().connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, timeout=lab.seconds(ANSWER))
        for queue in sorted({queue for worker in lab.topology.with_role("worker") for queue in worker.queues}):
            try:
                with connection.channel() as channel:
                    status.queues[queue] = channel.queue_declare(queue, passive=True).message_count
            except ChannelError:
                status.queues[queue] = 0


def _without_message(status: Status, lab: Lab) -> None:
    """Compare the tasks that Airflow calls queued with the messages in queues and those that workers have received.

    RabbitMQ's messages can be counted and not read, so both brokers' are counted.
    """
    before = _queued(lab)
    if not before:
        return
    app = lab.celery()
    depth = 0
    with app.connection_for_read() as connection:
        for queue in set(before.values()):
            with suppress(ChannelError), connection.channel() as channel:  # the queue does not exist
                depth += channel.queue_declare(queue, passive=True).message_count
    inspect = app.control.inspect(timeout=lab.seconds(ANSWER), limit=len(lab.topology.with_role("worker")))
    answers = [*(inspect.reserved() or {}).values(), *(inspect.active() or {}).values()]
    received = {task["id"] for tasks in answers for task in tasks}
    count = len(before.keys() & _queued(lab).keys() - received) - depth
    if count > 0:
        status.problems.append(f"{count} queued tasks have no message that a queue or a living worker holds")


def _queued(lab: Lab) -> dict[str, str]:
    """Return the Celery ids of the tasks that have been queued for a while, and their queues."""
    query = """
        SELECT external_executor_id, queue FROM task_instance
        WHERE state = 'queued' AND external_executor_id IS NOT NULL
        AND queued_dttm < now() - make_interval(secs => %s)
    """
    with lab.connect("airflow") as connection:
        return dict(connection.execute(query, [lab.seconds(SETTLED)]).fetchall())


def _database(status: Status, lab: Lab) -> None:
    query = "SELECT version(), (SELECT count(*) FROM pg_stat_activity), pg_database_size('airflow') / 1048576"
    with lab.connect() as connection:
        version, connections, size = connection.execute(query).fetchone() or ("", 0, 0)
    status.database = {"version": version.split(" (")[0], "connections": connections, "size_mib": size}


def _members(status: Status, lab: Lab) -> None:
    status.members = members.states(lab)
    status.problems += [f"{finding.machine}: {finding.wrong} ({finding.fix})" for finding in members.findings(lab)]


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
