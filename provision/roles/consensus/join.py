"""Decides how etcd starts on an empty disk: it forms a cluster with the others, or replaces a member that is gone.

etcd refuses to form a cluster that exists already ("has already been bootstrapped"). Its former member has to be
removed from the cluster, and a new one added. Runs as root before etcd, with the machine's own Python.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lab.topology import Machine, Topology

DATA = Path("/var/lib/etcd/lab/member")
STATE = Path("/run/airflow-lab/etcd")  # the unit reads it
ADDED = 30  # seconds; a cluster accepts a new member some seconds after the former one is removed


class Cluster:
    """The members of the cluster other than this machine."""

    def __init__(self, lab: Topology, here: str) -> None:
        others = [machine for machine in lab.with_role("consensus") if machine.name != here]
        self.endpoints = ",".join(f"http://{machine.address}:{lab.ports['etcd']}" for machine in others)
        self.wait = lab.seconds(3)

    def ask(self, *words: str) -> dict[str, Any]:
        """Return what etcdctl prints; CalledProcessError without a majority, or if the cluster refuses."""
        limits = [f"--dial-timeout={self.wait}s", f"--command-timeout={self.wait}s", "--write-out=json"]
        command = ["etcdctl", f"--endpoints={self.endpoints}", *limits, *words]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def state(cluster: Cluster, machine: Machine, url: str, within: float) -> str:
    """Return `existing` if the others have a cluster, of which this machine is a new member then; else `new`."""
    try:
        members = cluster.ask("member", "list")["members"]
    except subprocess.CalledProcessError:
        return "new"
    mine = [member for member in members if url in member["peerURLs"]]
    if mine and not mine[0].get("clientURLs"):  # it is expected, and never started
        return "existing"
    if mine:
        cluster.ask("member", "remove", f"{mine[0]['ID']:x}")
    deadline = time.monotonic() + within
    while True:
        try:
            cluster.ask("member", "add", machine.name, f"--peer-urls={url}")
            return "existing"
        except subprocess.CalledProcessError as error:
            if time.monotonic() > deadline:
                sys.exit(f"the cluster does not accept {machine.name} as a new member: {error.stderr.strip()}")
            time.sleep(1)


def main() -> None:
    STATE.parent.mkdir(exist_ok=True)
    STATE.unlink(missing_ok=True)
    if DATA.exists():
        return  # etcd ignores the state
    lab, here = Topology.of_this_machine(), socket.gethostname()
    url = f"http://{lab[here].address}:{lab.ports['etcd_peer']}"
    found = state(Cluster(lab, here), lab[here], url, lab.seconds(ADDED))
    print(f"empty disk: {'joining the cluster of the others' if found == 'existing' else 'forming a cluster'}")
    STATE.write_text(f"ETCD_INITIAL_CLUSTER_STATE={found}\n")


if __name__ == "__main__":
    main()
