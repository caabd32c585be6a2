"""Restarts services on this machine while those on other machines are healthy: one machine at a time.

Provisioning records the units that have to be restarted (`provision/operations.py`) and runs this once. A lock in the
database allows only one machine at a time to restart. Before the restart, this waits until another machine is healthy
in each of the roles, or all others where a majority is needed; after it, until its own services are healthy. A primary
of the database and a master of Redis hand over before. Runs as root in Airflow's environment.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from lab.roles import ROLES
from lab.topology import Machine, Topology

HERE = socket.gethostname()
RESTARTS = Path("/run/airflow-lab/restart")  # a file for each unit that has to be restarted, with its role
LOCK = 5  # any number that no other lock uses
WITHIN = 90  # seconds that the services of a machine may take until they are healthy, times time_factor
# Whether the service of a role on a machine has started after a Unix time, if that is known, and is healthy.
Check = Callable[[Machine, Topology, float], bool]
SECRET = Path("/opt/airflow/secrets/sql_alchemy_conn")  # a machine without Airflow does not have it


def answer(machine: Machine, port: str, path: str, lab: Topology) -> httpx.Response | None:
    """Return what a machine answers over HTTP; None if it does not, or answers with an error."""
    try:
        found = httpx.get(f"http://{machine.address}:{lab.ports[port]}/{path}", timeout=lab.seconds(5), trust_env=False)
    except httpx.HTTPError:
        return None
    return found if found.is_success else None


def api_server(machine: Machine, lab: Topology, since: float) -> bool:
    return answer(machine, "api_server", "api/v2/version", lab) is not None


def consensus(machine: Machine, lab: Topology, since: float) -> bool:
    return answer(machine, "etcd", "health", lab) is not None  # it has a leader


def database(machine: Machine, lab: Topology, since: float) -> bool:
    found = answer(machine, "patroni", "health", lab)
    member = found.json() if found else {}
    return member.get("role") == "primary" or member.get("replication_state") == "streaming"


def queue(machine: Machine, lab: Topology, since: float) -> bool:
    """Of RabbitMQ: whether the queues keep a majority of their replicas if another node than this one stops."""
    with suppress(OSError):
        socket.create_connection((machine.address, lab.port("broker")), lab.seconds(2)).close()
        if lab.broker != "rabbitmq":
            return True
        check = ["rabbitmq-diagnostics", "--quiet", "check_if_node_is_quorum_critical"]
        return machine.name != HERE or subprocess.run(check, capture_output=True, check=False).returncode == 0
    return False


def load_balancer(machine: Machine, lab: Topology, since: float) -> bool:
    return answer(machine, "load_balancer", "nginx", lab) is not None


def local_proxy(machine: Machine, lab: Topology, since: float) -> bool:
    """Only the machine itself reaches it, and no other machine needs it."""
    if machine.name != HERE:
        return True
    with suppress(OSError), socket.create_connection(("127.0.0.1", lab.ports["proxy_postgresql"]), 1):
        return True
    return False


def heartbeat(role: str) -> Check:
    """Return the check of a service that records heartbeats in Airflow's database."""

    def check(machine: Machine, lab: Topology, since: float) -> bool:
        query = text(
            "SELECT count(*) FROM job WHERE hostname = :host AND job_type = :kind AND state = 'running'"
            " AND extract(epoch FROM start_date) >= :since AND extract(epoch FROM now() - latest_heartbeat) < :fresh"
        )
        values = {
            **{"host": machine.name, "kind": ROLES[role].job, "since": since},
            "fresh": lab.timings["scheduler_health_threshold"],
        }
        try:
            with create_engine(SECRET.read_text()).connect() as connection:
                return bool(connection.execute(query, values).scalar())
        except SQLAlchemyError:
            return False

    return check


CHECKS: dict[str, Check] = {
    "consensus": consensus,
    "database": database,
    "queue": queue,
    "load_balancer": load_balancer,
    "local_proxy": local_proxy,
    "api_server": api_server,
    **{role: heartbeat(role) for role in ROLES if ROLES[role].job},
}


def wait(what: str, condition: Callable[[], bool], within: float) -> None:
    """Wait until a condition holds, at most `within` seconds: a machine may be off."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > within:
            print(f"{what}: not healthy within {within:.0f} s; continuing", flush=True)
            return
        time.sleep(0.5)


def wait_for_others(role: str, lab: Topology) -> None:
    """Wait until another machine is healthy in a role; where a majority is needed, all others."""
    others = [machine for machine in lab.with_role(role) if machine.name != HERE]
    enough = all if ROLES[role].machines == "majority" else any
    if others:
        check, within = CHECKS[role], lab.seconds(WITHIN)
        wait(f"{role} on other machines", lambda: enough(check(machine, lab, 0) for machine in others), within)


@contextmanager
def locked(lab: Topology) -> Iterator[None]:
    """Have the lock of the database during a block; SQLAlchemyError if no primary answers, OSError without a password.

    It does not go through the local proxy, whose restart would end it. It ends earlier if another machine becomes the
    primary meanwhile.
    """
    url = make_url(SECRET.read_text()).update_query_dict({"host": lab.endpoints("database", "postgresql")})
    connection = create_engine(url).connect()
    try:
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
        yield
    finally:
        with suppress(SQLAlchemyError):
            connection.close()


def restart(units: dict[str, str], lab: Topology) -> None:
    """Restart units of this machine, given the role of each: Airflow's at the same time, after the others."""
    own = {unit: role for unit, role in units.items() if not unit.startswith("airflow-")}
    airflows = {unit: role for unit, role in units.items() if unit not in own}
    for group in (*({unit: role} for unit, role in own.items()), airflows):
        for role in group.values():
            wait_for_others(role, lab)
        start = time.time()
        if group:
            subprocess.run(["systemctl", "restart", *group], check=True)
        for role in group.values():
            check = CHECKS[role]
            wait(f"{role} on {HERE}", lambda: check(lab[HERE], lab, start), lab.seconds(WITHIN))  # noqa: B023


def hand_over(lab: Topology, roles: Collection[str]) -> None:
    """Let another machine become the primary of the database, or the master of Redis, if this one is."""
    if "database" in roles and answer(lab[HERE], "patroni", "primary", lab):
        wait_for_others("database", lab)
        switch = ["patronictl", "-c", "/etc/patroni/config.yml", "switchover", "lab", "--leader", HERE, "--force"]
        subprocess.run(switch, check=True)
        wait(f"another primary than {HERE}", lambda: database(lab[HERE], lab, 0), lab.seconds(WITHIN))
    if "queue" in roles and lab.sentinels and redis_cli(lab, "redis", "role").startswith("master"):
        wait_for_others("queue", lab)
        redis_cli(lab, "sentinel", "sentinel", "failover", "lab")
        wait(
            f"another master than {HERE}",
            lambda: redis_cli(lab, "redis", "role").startswith("slave"),
            lab.seconds(WITHIN),
        )


def redis_cli(lab: Topology, port: str, *words: str) -> str:
    password = json.loads(Path("/etc/airflow-lab/machine.json").read_text())["secrets"]["redis_password"]
    command = ["redis-cli", "-p", str(lab.ports[port]), *words]
    env = os.environ | {"REDISCLI_AUTH": password}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout


def main() -> None:
    lab = Topology.of_this_machine()
    recorded = {file.name: file.read_text().strip() for file in RESTARTS.glob("*")}
    units = dict(sorted(recorded.items(), key=lambda item: [*ROLES].index(item[1])))
    hand_over(lab, units.values())  # before the lock: the session that has it ends with the database's primary
    with ExitStack() as lock:
        try:
            lock.enter_context(locked(lab))
        except (SQLAlchemyError, OSError) as error:
            print(f"no lock from the database: {str(error).splitlines()[0]}", file=sys.stderr)
        restart(units, lab)
    for unit in units:
        (RESTARTS / unit).unlink()


if __name__ == "__main__":
    main()
