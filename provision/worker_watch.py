"""Restarts this machine's worker if it is connected but takes no tasks, which `celery inspect ping` does not show.

Seen after a queue server went away and came back: apache/airflow#26542, #63580, celery/celery#8030, #9054. A timer
runs it with Airflow's environment, as root; a worker is restarted when it was deaf twice in a row.
"""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from celery import Celery
from kombu.exceptions import OperationalError

from lab.topology import QUEUE_UNITS, Topology

HERE = socket.gethostname()
LAB = Topology.of_this_machine()
SETTLED = 45 * LAB.time_factor  # seconds that a worker may take from its start until it listens


def seconds_up(unit: str) -> float:
    """Return for how long a unit has been active; 0 if it is not."""
    show = ["systemctl", "show", "--value", "--property", "ActiveState,ActiveEnterTimestampMonotonic", unit]
    shown = subprocess.run(show, capture_output=True, text=True, check=True).stdout.split()
    return time.monotonic() - int(shown[-1]) / 1e6 if "active" in shown else 0


def listens(url: str) -> list[str] | None:
    """Return the queues that this machine's worker takes tasks from, None if the broker does not answer."""
    app = Celery(broker=url, set_as_current=False)
    try:
        answer = app.control.inspect(destination=[f"celery@{HERE}"], timeout=5 * LAB.time_factor).active_queues() or {}
    except (OperationalError, OSError):
        return None
    return [queue["name"] for queues in answer.values() for queue in queues]


def watch(broker: str, wanted: set[str]) -> None:
    unit = f"airflow-worker@{broker}.service"
    deaf = Path(f"/run/airflow-worker-{broker}.deaf")
    if seconds_up(unit) < SETTLED:
        deaf.unlink(missing_ok=True)
        return
    queues = listens(Path(f"/opt/airflow/secrets/broker_url_{broker}").read_text())
    if queues is None or set(queues) >= wanted:
        deaf.unlink(missing_ok=True)
    elif not deaf.exists():
        deaf.touch()
    else:
        deaf.unlink()
        print(f"{unit} is connected but listens to {queues}, not to {sorted(wanted)}: restarting it", flush=True)
        subprocess.run(["systemctl", "restart", "--no-block", unit], check=True)


if __name__ == "__main__":
    queues = set(LAB[HERE].queues)
    for broker in QUEUE_UNITS:
        watch(broker, queues)
