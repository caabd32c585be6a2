"""Restarts a worker of this machine that is a stalled consumer: connected, but it consumes no queue.

`celery inspect ping` does not show it. It happens after an outage of the queue server: apache/airflow#26542, #63580,
celery/celery#8030, #9054. A timer runs this as root in Airflow's environment; a worker is restarted if two checks in a
row find it stalled.
"""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from lab.topology import Topology
from provision.roles.airflow.broker_client import BrokerClient, OperationalError
from provision.roles.worker.switch import draining, node, status_of, unit, workers

HERE = socket.gethostname()
LAB = Topology.of_this_machine()
SETTLED = LAB.seconds(45)  # seconds after its start in which a worker need not consume its queues yet


def seconds_up(unit: str) -> float:
    """Return for how long a unit has been active; 0 if it is not."""
    show = ["systemctl", "show", "--value", "--property", "ActiveState,ActiveEnterTimestampMonotonic", unit]
    shown = subprocess.run(show, capture_output=True, text=True, check=True).stdout.split()
    return time.monotonic() - int(shown[-1]) / 1e6 if "active" in shown else 0


def listens(broker: str, name: str) -> list[str] | None:
    """Return the queues that a worker consumes; None if the broker does not answer."""
    try:
        return BrokerClient(broker, LAB.seconds(5)).listens(name) or []
    except (OperationalError, OSError):
        return None


def watch(number: str, broker: str, wanted: set[str]) -> None:
    service = f"{unit(number)}.service"
    stalled = Path(f"/run/airflow-lab/stalled-{number}")
    stalled.parent.mkdir(exist_ok=True)
    if seconds_up(service) < SETTLED or draining(number).exists():
        stalled.unlink(missing_ok=True)
        return
    queues = listens(broker, node(number))
    retires = queues and status_of(number).exists()  # it keeps the queues that it began with
    if queues is None or retires or set(queues) >= wanted:
        stalled.unlink(missing_ok=True)
    elif not stalled.exists():
        stalled.touch()
    else:
        stalled.unlink()
        print(f"{service} is connected but listens to {queues}, not to {sorted(wanted)}: restarting it", flush=True)
        subprocess.run(["systemctl", "restart", "--no-block", service], check=True)


if __name__ == "__main__":
    for number, worker in workers().items():
        watch(number, worker["broker"], set(LAB[HERE].queues))
