"""Removes what a node of RabbitMQ has on its disk if the cluster was drained since then: runs as root before the node.

A drained cluster has no message, and its definitions are in a file. Its machines may be destroyed and made again while
the lab uses Redis. A new node among old ones that know its name would break the cluster: the metadata of all was lost.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from provision.roles.airflow.register import Register

DATA = Path("/var/lib/rabbitmq/mnesia")
STAMP = Path("/var/lib/airflow-lab/rabbitmq-drains")  # how often it had been drained when the node's disk began


def main() -> None:
    drains = str(Register().drains("rabbitmq"))
    began = STAMP.read_text() if STAMP.exists() else drains  # without a stamp: a new disk, or one of an older lab
    if began != drains and DATA.exists():
        print("the cluster was drained: starting with an empty disk", flush=True)
        shutil.rmtree(DATA)
    STAMP.write_text(drains)


if __name__ == "__main__":
    main()
