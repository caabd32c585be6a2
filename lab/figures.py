"""Measures the README's figures on this machine: `make figures`. The lab is destroyed and brought up anew."""

from __future__ import annotations

import statistics
import subprocess
import time

from lab.client import Airflow
from lab.topology import ROOT, Topology

RUNS = 3
PSS = "sudo sh -c 'cat /proc/[0-9]*/smaps_rollup 2>/dev/null' | awk '/^Pss:/ {sum += $2} END {print sum}'"


def vagrant(*words: str) -> str:
    """Run Vagrant and return what it prints; CalledProcessError if it fails."""
    return subprocess.run(["vagrant", *words], check=True, capture_output=True, text=True, cwd=ROOT).stdout


def up_to_first_dag_run() -> tuple[float, float]:
    """Return the seconds of `vagrant up` from destroyed machines, and those until a first DAG run has succeeded."""
    vagrant("destroy", "--force")
    start = time.monotonic()
    vagrant("up")
    up = time.monotonic() - start
    airflow = Airflow.of_this_checkout()
    run_id = airflow.trigger("dist_example")
    assert airflow.wait("dist_example", run_id, within=120)["state"] == "success"
    return up, time.monotonic() - start


def provision_again() -> float:
    """Return the seconds that provisioning all machines takes where nothing is to be done, by machine."""
    start = time.monotonic()
    vagrant("provision")
    return (time.monotonic() - start) / len(Topology.load().machines)


def memory() -> float:
    """Return the memory of all processes on all machines in GiB, shared pages counted once (PSS)."""
    kib = [int(vagrant("ssh", machine.name, "--command", PSS)) for machine in Topology.load().machines]
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
