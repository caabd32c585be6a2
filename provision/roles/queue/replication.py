"""Writes the files of Redis and its Sentinel that they themselves change later: they begin with the present master.

The Sentinels of the other machines know it. If none answers, the cluster is new, and the first machine is the master.
Runs as root with the machine's own Python.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lab.topology import Machine, Topology

ETC = Path("/etc/redis")
DATA = Path("/var/lib/redis/appendonlydir")
NAME = "lab"  # of the master, for Sentinel
REPLACED = 60  # seconds in which the Sentinels appoint another master


def ask(machine: Machine, port: int, password: str, *words: str) -> str:
    """Return what Redis or a Sentinel of another machine answers; empty if it does not."""
    command = ["redis-cli", "-t", "2", "-h", machine.address, "-p", str(port), *words]
    env = os.environ | {"REDISCLI_AUTH": password}
    asked = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else ""


def appointed(lab: Topology, others: Sequence[Machine], password: str) -> str:
    """Return the address of the master as the other Sentinels know it; empty if none of them answers."""
    words = ("sentinel", "get-master-addr-by-name", NAME)
    answers = [ask(machine, lab.ports["sentinel"], password, *words) for machine in others]
    return next((answer.split()[0] for answer in answers if answer), "")


def followed(lab: Topology, others: Sequence[Machine], password: str) -> bool:
    """Return whether another machine has ever had data of a master: at the first start of the cluster, none has."""
    answers = [ask(machine, lab.ports["redis"], password, "info") for machine in others]
    return any(re.search(r"^slave_repl_offset:(?![01]\b)|^db0:", answer, re.MULTILINE) for answer in answers)


def master(lab: Topology, here: str, password: str) -> str:
    """Return the address of the master. This machine is not it if its disk is empty and the others had one."""
    others = [machine for machine in lab.with_role("queue") if machine.name != here]
    deadline = time.monotonic() + lab.seconds(REPLACED)
    while (found := appointed(lab, others, password)) == lab[here].address:
        if DATA.exists() or not followed(lab, others, password):
            break
        if time.monotonic() > deadline:
            sys.exit(f"the Sentinels still take {here} for the master, whose disk is empty: is a majority of them up?")
        time.sleep(1)
    return found or lab.with_role("queue")[0].address


def write(path: Path, text: str) -> None:
    path.touch(mode=0o640)
    path.write_text(text)
    shutil.chown(path, "redis", "redis")


def main() -> None:
    lab, here = Topology.of_this_machine(), socket.gethostname()
    password = json.loads(Path("/etc/airflow-lab/machine.json").read_text())["secrets"]["redis_password"]
    address = master(lab, here, password)
    follow = "" if address == lab[here].address else f"replicaof {address} {lab.ports['redis']}\n"
    write(ETC / "redis.conf", f"include {ETC}/lab.conf\n{follow}")
    monitor = f"sentinel monitor {NAME} {address} {lab.ports['redis']} {len(lab.with_role('queue')) // 2 + 1}\n"
    write(ETC / "sentinel.conf", monitor + (ETC / "lab-sentinel.conf").read_text())


if __name__ == "__main__":
    main()
