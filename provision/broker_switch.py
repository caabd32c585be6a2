"""Ends the queue server that a lab has left, and shows what a move between brokers waits for.

Both queue servers run while the lab moves. Each scheduler restarts with the new broker, and each worker is replaced by
one that works with it (`worker_switch`). Every one is entered in the register, so the old queue server knows when
nobody works with it any more. The units wait, not `vagrant provision`: a machine that was off goes on when it is back.

Runs as root with Airflow's environment, on the machine of the queue server.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from lab.topology import QUEUE_UNITS, Topology
from provision.broker_client import BrokerClient, OperationalError
from provision.register import Client, Register, engine, unmoved
from provision.worker_switch import QUIET, systemctl

STATUS = Path("/run/airflow-lab-switch")
ABSENT = 20  # seconds, times the lab's factor, after which `follow` does not wait for a machine to be provisioned


def clients_left(lab: Topology, broker: str, service: str, clients: Iterable[Client]) -> str:
    """Say which machines of the lab have a service that `broker` is still needed for; empty if none has."""
    in_use = {machine.name for machine in lab.machines}
    clients = [client for client in clients if client.machine in in_use]  # a row of a destroyed machine stays
    if names := unmoved(lab, service, clients):
        return f"the {service} of {', '.join(names)} to be provisioned (`vagrant up`, `vagrant provision`)"
    old = sorted({client.machine for client in clients if client.broker == broker})
    return f"the {service} of {', '.join(old)} to end what it has from {broker}" if old else ""


def holding(broker: BrokerClient) -> Iterator[str]:
    """Say what keeps the queue server of `broker` running: asked again each time, since machines come and go."""
    lab, register = Topology.of_this_machine(), Register()
    for service in ("scheduler", "worker"):
        if left := clients_left(lab, broker.name, service, register.clients(service)):
            yield left
    with engine("airflow").connect() as connection:
        queued = set(
            connection.execute(text("SELECT DISTINCT queue FROM task_instance WHERE state = 'queued'")).scalars()
        )
    served = {queue for worker in lab.with_role("worker") for queue in worker.queues}
    if count := broker.queued(served):
        yield f"{count} tasks queued on {broker.name}"
    for queue in sorted(queued - served):
        if count := broker.queued([queue]):
            yield f"{count} tasks in the queue {queue} of {broker.name}, which no worker serves"


def leave_queue(name: str) -> None:
    """Stop the queue server of a broker once nobody works with it and nothing is left in it."""
    quiet, said = 0, ""
    while quiet < QUIET:
        try:
            left = "; ".join(holding(BrokerClient(name, 3 * Topology.of_this_machine().time_factor)))
        except (OperationalError, SQLAlchemyError) as error:
            left = f"{name} or the database, which does not answer: {str(error).splitlines()[0]}"
        quiet = 0 if left else quiet + 1
        STATUS.write_text(left)
        if left and left != said:
            print(f"waiting for {left}", flush=True)
        said = left
        time.sleep(0.5)
    print(f"stopping {name}", flush=True)
    systemctl("disable", "--now", QUEUE_UNITS[name])
    systemctl("disable", f"airflow-leave-queue@{name}.service")


def follow() -> None:
    """Print what the move waits for, and for how long, until it has ended or waits for another machine."""
    units = [f"airflow-leave-queue@{broker}.service" for broker in QUEUE_UNITS]
    start, said = time.monotonic(), -5.0
    while any(systemctl("is-active", unit) for unit in units):
        seconds = time.monotonic() - start
        left = STATUS.read_text() if STATUS.exists() else ""
        if left and seconds - said >= 5:
            print(f"==> lab: moving: waiting for {left} ({seconds:.0f} s)", flush=True)
            said = seconds
        if "to be provisioned" in left and seconds > ABSENT * Topology.of_this_machine().time_factor:
            sys.exit(f"==> lab: not moved yet: waiting for {left}")
        time.sleep(1)
    print("==> lab: moved: only the chosen broker runs", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("leave-queue").add_argument("broker", choices=[*QUEUE_UNITS])
    verbs.add_parser("follow")
    given = parser.parse_args()
    leave_queue(given.broker) if given.verb == "leave-queue" else follow()
