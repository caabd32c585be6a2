"""Prepares the disk of a node of RabbitMQ before each start, and records that the node has joined the cluster.

A node whose disk is empty must not have the name of a node that the others know: their metadata store (Khepri) would
replicate to it before it has joined, and the users and queues of the whole cluster could be lost. So it has itself
forgotten first. After a move away from RabbitMQ no node holds a message, and each starts with an empty disk: machines
may have been destroyed and made again meanwhile. Runs as root.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import tenacity

from lab.topology import Topology
from provision.roles.airflow.register import Register

DATA = Path("/var/lib/rabbitmq/mnesia")
STAMP = Path("/var/lib/airflow-lab/rabbitmq-drains")  # how often the cluster had been drained when the disk began
HERE = socket.gethostname()
UNKNOWN = "not_a_cluster_node"  # says a cluster that does not have the node


def prepare() -> None:
    """Empty the disk if the cluster was drained since it began; then have a node with an empty disk forgotten."""
    register = Register()
    drains = register.drains("rabbitmq")
    began = int(STAMP.read_text()) if STAMP.exists() else drains  # without a stamp: a new disk, or one of an older lab
    if began != drains and DATA.exists():
        print("the cluster was drained: starting with an empty disk", flush=True)
        shutil.rmtree(DATA)
    STAMP.write_text(str(drains))
    if register.has_joined(drains) and not (DATA.exists() and any(DATA.iterdir())):
        others = [machine.name for machine in Topology.of_this_machine().with_role("queue") if machine.name != HERE]
        while not any(forgets(other) for other in others):
            print(f"the disk is empty: waiting until {' or '.join(others)} can forget this node", flush=True)
            time.sleep(2)


def forgets(other: str) -> bool:
    """Return whether the cluster of another node does not have this node any more."""
    command = ["rabbitmqctl", "--node", f"rabbit@{other}", "--timeout", "15", "forget_cluster_node", f"rabbit@{HERE}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode == 0 or UNKNOWN in done.stdout + done.stderr


@tenacity.retry(stop=tenacity.stop_after_delay(60), wait=tenacity.wait_fixed(1))
def note_joined() -> None:
    register = Register()
    register.note_joined(register.drains("rabbitmq"))


if __name__ == "__main__":
    prepare() if sys.argv[1] == "prepare" else note_joined()
