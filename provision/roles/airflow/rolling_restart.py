"""Restarts Airflow's services on this machine while those on another machine are healthy: one machine at a time.

Provisioning records the units that have to be restarted (`provision/operations.py`) and runs this once. A lock in the
database allows only one machine at a time to restart. Before the restart, this waits until another machine is healthy
in each of the roles; after it, until its own services are healthy. Runs as root in Airflow's environment.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
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
URL = make_url(Path("/opt/airflow/secrets/sql_alchemy_conn").read_text())


def healthy(machine: Machine, role: str, lab: Topology, since: float) -> bool:
    """Return whether the service of `role` on a machine has started after `since`, a Unix time, and is healthy."""
    if role == "api_server":
        url = f"http://{machine.address}:{lab.ports['api_server']}/api/v2/version"
        try:
            return httpx.get(url, timeout=lab.seconds(5), trust_env=False).is_success
        except httpx.HTTPError:
            return False
    query = text(
        "SELECT count(*) FROM job WHERE hostname = :host AND job_type = :kind AND state = 'running'"
        " AND extract(epoch FROM start_date) >= :since AND extract(epoch FROM now() - latest_heartbeat) < :fresh"
    )
    values = {
        **{"host": machine.name, "kind": ROLES[role].job, "since": since},
        "fresh": lab.timings["scheduler_health_threshold"],
    }
    try:
        with create_engine(URL).connect() as connection:
            return bool(connection.execute(query, values).scalar())
    except SQLAlchemyError:
        return False


def wait(what: str, condition: Callable[[], bool], within: float) -> None:
    """Wait until a condition holds, at most `within` seconds: a machine may be off."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > within:
            print(f"{what}: not healthy within {within:.0f} s; continuing", flush=True)
            return
        time.sleep(0.5)


def restart(units: dict[str, str], lab: Topology) -> None:
    """Restart units of this machine when another machine is healthy in the role of each."""
    within = lab.seconds(WITHIN)
    for role in units.values():
        others = [machine for machine in lab.with_role(role) if machine.name != HERE]
        if others:
            wait(f"{role} on another machine", lambda: any(healthy(m, role, lab, 0) for m in others), within)  # noqa: B023
    start = time.time()
    subprocess.run(["systemctl", "restart", *units], check=True)
    for role in units.values():
        wait(f"{role} on {HERE}", lambda: healthy(lab[HERE], role, lab, start), within)  # noqa: B023


def main() -> None:
    lab = Topology.of_this_machine()
    units = {file.name: file.read_text().strip() for file in RESTARTS.glob("*")}
    active = subprocess.run(
        ["systemctl", "is-active", *units], capture_output=True, text=True, check=False
    ).stdout.split()
    running = {unit: role for (unit, role), state in zip(units.items(), active, strict=True) if state == "active"}
    stopped = [unit for unit in units if unit not in running]
    if stopped:
        subprocess.run(["systemctl", "restart", "--no-block", *stopped], check=True)
    if running:
        with ExitStack() as locked:
            try:
                connection = locked.enter_context(create_engine(URL).connect())
                connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
            except SQLAlchemyError as error:
                print(f"no lock, the database does not answer: {str(error).splitlines()[0]}", file=sys.stderr)
            restart(running, lab)
    for unit in units:
        (RESTARTS / unit).unlink()


if __name__ == "__main__":
    main()
