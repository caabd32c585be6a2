"""Measures the values of docs/figures.md on this machine: `make figures`. Destroys the lab and brings it up again."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from pathlib import Path

from lab.checkout import Lab
from lab.topology import BROKERS

LAB = Lab(Path.cwd())
RUNS = 3
PSS = "sudo sh -c 'cat /proc/[0-9]*/smaps_rollup 2>/dev/null' | awk '/^Pss:/ {sum += $2} END {print sum}'"


def vagrant(*words: str, **environment: str) -> str:
    """Run Vagrant and return what it prints; CalledProcessError if it fails."""
    env = os.environ | environment
    return subprocess.run(["vagrant", *words], check=True, capture_output=True, text=True, cwd=LAB.root, env=env).stdout


def run(dag_id: str, **conf: int) -> float:
    """Return the seconds that a run of a DAG takes, by Airflow's clock."""
    ended = LAB.airflow.wait(dag_id, LAB.airflow.trigger(dag_id, **conf), within=300)
    assert ended["state"] == "success"
    return ended["duration"]


def up_to_first_dag_run() -> tuple[float, float]:
    """Return the seconds of `vagrant up` from destroyed machines, and those until a first DAG run has succeeded."""
    vagrant("destroy", "--force")
    start = time.monotonic()
    vagrant("up")
    up = time.monotonic() - start
    run("dist_example")
    return up, time.monotonic() - start


def provision_again() -> float:
    """Return the seconds a machine that provisioning takes when there is nothing to do."""
    start = time.monotonic()
    vagrant("provision")
    return (time.monotonic() - start) / len(LAB.topology.machines)


def move(broker: str) -> float:
    """Return the seconds from the command that moves an idle lab to `broker` to the end of a first DAG run there."""
    start = time.monotonic()
    vagrant("provision", BROKER=broker)
    run("dist_example")
    return time.monotonic() - start


def death(broker: str) -> float:
    """Return the seconds from the death of the broker's service to the first DAG run after it."""
    name = LAB.topology.with_role("queue")[0].name
    vagrant("ssh", name, "--command", f"sudo systemctl kill --signal SIGKILL {LAB.topology.queue_units(broker)[0]}")
    start = time.monotonic()
    run("dist_example")
    return time.monotonic() - start


def memory() -> float:
    """Return the memory of all processes on all machines in GiB, shared pages counted once (PSS)."""
    kib = [int(vagrant("ssh", machine.name, "--command", PSS)) for machine in LAB.topology.machines]
    return sum(kib) / 1024**2


def median(values: list[float]) -> str:
    """Return the median of some values, and the values."""
    return f"{statistics.median(values):5.1f}  ({', '.join(f'{value:.1f}' for value in values)})"


if __name__ == "__main__":
    ups = [up_to_first_dag_run() for _ in range(RUNS)]
    print(f"vagrant up, five destroyed machines, image there, s:    {median([up for up, _ in ups])}")
    print(f"... to the first successful DAG run, s:                 {median([first for _, first in ups])}")
    print(f"vagrant provision, nothing to do, s a machine:          {median([provision_again() for _ in range(RUNS)])}")
    time.sleep(60)
    print(f"five machines idle, GiB:                                {median([memory() for _ in range(RUNS)])}")
    moves: dict[str, list[float]] = {broker: [] for broker in BROKERS}
    for broker in ["rabbitmq", "redis"] * RUNS:
        moves[broker].append(move(broker))
    for broker in BROKERS:
        print(f"to {broker}, idle, to the first DAG run there, s:  {median(moves[broker])}")
    for broker in BROKERS:
        move(broker)
        print(f"{broker} killed, to the first DAG run, s:  {median([death(broker) for _ in range(RUNS)])}")
        print(f"{broker}, 100 empty tasks, s:  {median([run('ledger', tasks=100, seconds=0) for _ in range(5)])}")
    move("redis")
