"""Brings machines that Vagrant did not make to their roles, over SSH: the same code, sent to them and started there."""

from __future__ import annotations

import json
import shlex
import subprocess
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

from lab.topology import ROOT, Topology

SENT = ("provision", "lab", "config")
CHECK = "Lab.new(ARGV[0], file: ARGV[1], folder: ARGV[2]).save"
# A machine's own: its name, the code where a machine of the lab has it, and the DAGs.
RECEIVE = """
set -eu
hostname {name}
echo {name} >/etc/hostname
mkdir -p /vagrant /opt/airflow/dags /opt/airflow/logs
tar --extract --gzip --directory /vagrant --no-same-owner
cp -r /vagrant/dags/. /opt/airflow/dags
"""
# A plain server may have no sudo.
AS_ROOT = """if [ "$(id -u)" = 0 ]; then sh -c {command}; else sudo sh -c {command}; fi"""


class InvalidError(Exception):
    """An inventory with a mistake, told in full."""


def deploy(inventory: Path, ssh: list[str], say: Callable[[str], None]) -> list[str]:
    """Bring the machines of `inventory`, in the form of `lab.json`, to their roles; return those that failed.

    `ssh` is the command that takes an address and a command; its user must be root or may use sudo. Secrets are made
    at the first time and kept in a folder beside the inventory, named after it.
    """
    state = inventory.with_suffix("")
    check = ["ruby", "-r", str(ROOT / "provision/host/lab"), "-e", CHECK, str(ROOT), str(inventory), str(state)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InvalidError(next((line for line in done.stderr.splitlines() if "Invalid" in line), done.stderr))
    topology = Topology.from_document(json.loads(inventory.read_text()))
    code = _archive()

    def one(name: str) -> bool:
        reach = [*ssh, topology[name].address]
        steps = [(RECEIVE.format(name=name), code), ("sh -s", (state / "machines" / f"{name}.sh").read_bytes())]
        with (state / f"{name}.log").open("wb") as log:
            for command, given in steps:
                as_root = AS_ROOT.format(command=shlex.quote(command))
                sent = subprocess.run([*reach, as_root], input=given, stdout=log, stderr=log, check=False)
                if sent.returncode:
                    say(f"{name}: failed; see {log.name}")
                    return False
        say(f"{name}: has its roles")
        return True

    names = [machine.name for machine in topology.machines]
    with ThreadPoolExecutor() as pool:
        good = dict(zip(names, pool.map(one, names), strict=True))
    return [name for name in names if not good[name]]


def _archive() -> bytes:
    """Return what a machine needs of this checkout, as a tar archive."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for folder in (*SENT, "dags"):
            archive.add(ROOT / folder, folder, filter=lambda entry: None if "__pycache__" in entry.name else entry)
    return buffer.getvalue()
