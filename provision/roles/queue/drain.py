"""Stops the old queue server in a move between brokers, and shows what the move waits for.

Both queue servers run during a move. Each scheduler restarts with the new broker, and each worker is replaced by one
that uses it (`worker/switch.py`). The register shows when none of them uses the old queue server any more. A systemd
unit waits for that, not `vagrant provision`: the move also ends if a machine was off during the move.

Runs as root in Airflow's environment, on the machine of the queue server.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from sqlalchemy import text

from lab.topology import BROKERS, Topology
from provision.roles.airflow.broker_client import BrokerClient
from provision.roles.airflow.draining import systemctl, wait_until_nothing
from provision.roles.airflow.register import Client, Register, engine, unmoved

STATUS = Path("/run/airflow-lab/move")
ABSENT = 20  # seconds, times time_factor, that `follow` waits for a machine that has not been provisioned


def clients_left(lab: Topology, broker: str, service: str, clients: Iterable[Client]) -> str:
    """Return which machines still need `broker` for a service; empty if none does."""
    in_use = {machine.name for machine in lab.machines}
    clients = [client for client in clients if client.machine in in_use]  # the rows of destroyed machines stay
    if names := unmoved(lab, service, clients):
        return f"the {service} of {', '.join(names)} to be provisioned (`vagrant up`, `vagrant provision`)"
    old = sorted({client.machine for client in clients if client.broker == broker})
    return f"the {service} of {', '.join(old)} to stop using {broker}" if old else ""


def holding(broker: BrokerClient) -> Iterator[str]:
    """Yield the reasons why the queue server of `broker` is still needed."""
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


def drain(name: str) -> None:
    """Stop the queue server of a broker when no service uses it and its queues are empty."""
    STATUS.parent.mkdir(exist_ok=True)
    client = BrokerClient(name, Topology.of_this_machine().seconds(3))
    # Of several servers, the first that finds nothing stops; the others may then be too few to answer.
    wait_until_nothing(lambda: "" if Register().drained(name) else "; ".join(holding(client)), STATUS)
    Register().note_drained(name)
    print(f"stopping {name}", flush=True)
    systemctl("disable", "--now", *Topology.of_this_machine().queue_units(name))
    systemctl("disable", f"airflow-drain-queue@{name}.service")


def follow() -> None:
    """Print what the move waits for, and for how long, until it has ended or waits for another machine."""
    units = [f"airflow-drain-queue@{broker}.service" for broker in BROKERS]
    start, said = time.monotonic(), -5.0
    while any(systemctl("is-enabled", unit) for unit in units):  # not is-active: it restarts after an error
        seconds = time.monotonic() - start
        left = STATUS.read_text() if STATUS.exists() else ""
        if left and seconds - said >= 5:
            print(f"==> lab: moving: waiting for {left} ({seconds:.0f} s)", flush=True)
            said = seconds
        if "to be provisioned" in left and seconds > Topology.of_this_machine().seconds(ABSENT):
            sys.exit(f"==> lab: not moved yet: waiting for {left}")
        time.sleep(1)
    print("==> lab: moved: only the chosen broker runs", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("drain").add_argument("broker", choices=BROKERS)
    verbs.add_parser("follow")
    given = parser.parse_args()
    drain(given.broker) if given.verb == "drain" else follow()
