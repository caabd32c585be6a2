"""The same code on machines that Vagrant did not create: plain Debian systems with only sshd, reached over SSH."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lab.client import Airflow
from lab.roles import ROLES
from tests.support import ROOT
from tests.support.checkout import Checkout
from tests.support.lab import LAB
from tests.support.provisioning import check_unchanged

NETWORK = "airflow-lab-servers"
SUBNET = "192.168.60"
QUEUES = ["default", "queue_1", "queue_2"]
SERVERS: dict[str, dict[str, Any]] = {
    "data": {"roles": ["database", "queue", "load_balancer", "flower"]},
    "control": {"roles": ["api_server", "scheduler", "dag_processor", "triggerer"]},
    "runner": {"roles": ["worker"], "queues": QUEUES},
}
EVERYTHING: dict[str, dict[str, Any]] = {name: {"roles": [*ROLES], "queues": QUEUES} for name in SERVERS}
USERS = {"data": "root", "control": "admin", "runner": "root"}
# Makes a plain server. Root may log in, and so may admin, who may use sudo without a password.
PLAIN = """
apt-get update -q && apt-get install -q -y --no-install-recommends systemd-sysv openssh-server sudo
useradd --create-home --shell /bin/bash admin && echo 'admin ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/admin
for user in root admin; do
  home=$(getent passwd $user | cut -d : -f 6)
  install -d -m 0700 -o $user $home/.ssh
  echo '{key}' >$home/.ssh/authorized_keys && chown $user $home/.ssh/authorized_keys
done
install -d /etc/systemd/system/service.d
printf '[Service]\\nPrivateUsers=no\\n' >/etc/systemd/system/service.d/container.conf
"""
TEMPORARY = """
from airflow.sdk import dag, task

@dag
def temporary():
    @task
    def work():
        print("Goodbye")

    work()

temporary()
"""
RUN = [
    *("--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN", "--security-opt=seccomp=unconfined", "--cgroupns=private"),
    *("--tmpfs=/run", "--tmpfs=/run/lock", "--tmpfs=/tmp:exec", "--stop-signal=SIGRTMIN+3"),
]


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[str]:
    """Make the servers, and yield the command that reaches them."""
    folder = tmp_path / "ssh"
    folder.mkdir()
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    names = [f"{NETWORK}-{name}" for name in SERVERS]
    script = PLAIN.format(key=key.with_suffix(".pub").read_text().strip())
    try:
        docker("network", "create", "--subnet", f"{SUBNET}.0/24", NETWORK)
        docker("run", "--name", NETWORK, "airflow-lab/debian:trixie", "sh", "-ec", script)
        init = 'CMD ["/sbin/init", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]'
        docker("commit", "--change", init, NETWORK, f"{NETWORK}:plain")
        for number, name in enumerate(names, 10):
            address = ["--network", NETWORK, "--ip", f"{SUBNET}.{number}"]
            docker("run", "--detach", "--name", name, *address, *RUN, f"{NETWORK}:plain")
        config = folder / "config"
        users = "".join(f"Host {SUBNET}.{number}\n  User {user}\n" for number, user in enumerate(USERS.values(), 10))
        common = f"Host *\n  IdentityFile {key}\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n"
        config.write_text(users + common)
        for number in range(10, 10 + len(names)):
            LAB.eventually(partial(_has_sshd, f"{SUBNET}.{number}"), within=60)
        yield f"ssh -F {config} -o BatchMode=yes"
    finally:
        subprocess.run(["docker", "rm", "--force", NETWORK, *names], capture_output=True, check=False)
        subprocess.run(["docker", "image", "rm", f"{NETWORK}:plain"], capture_output=True, check=False)
        subprocess.run(["docker", "network", "rm", NETWORK], capture_output=True, check=False)


def _has_sshd(address: str) -> None:
    try:
        socket.create_connection((address, 22), timeout=5).close()
    except OSError as error:
        raise AssertionError(error) from error


@pytest.mark.drawn
@pytest.mark.parametrize(
    ("servers", "address"),
    [
        pytest.param(SERVERS, 10, id="a role each"),
        pytest.param(EVERYTHING, 9, id="all roles on three", marks=pytest.mark.thorough),
    ],
)
def test_deploy_turns_servers_into_a_cluster_and_is_idempotent(
    ssh: str, tmp_path: Path, servers: dict[str, dict[str, Any]], address: int
) -> None:
    checkout = Checkout(tmp_path / "checkout").root
    lab = json.loads((ROOT / "config" / "lab.json").read_text())
    machines = {
        name: server | {"address": f"{SUBNET}.{number}", "memory_mb": 1024}
        for number, (name, server) in enumerate(servers.items(), 10)
    }
    workers = sum("worker" in server["roles"] for server in servers.values())
    changes = {"machines": machines, "network": f"{SUBNET}.0/24", "address": f"{SUBNET}.9", "workers": workers}
    inventory = tmp_path / "servers.json"
    inventory.write_text(json.dumps(lab | changes | {"layouts": {"single": {}}}))
    (checkout / "dags" / "temporary.py").write_text(TEMPORARY)
    # The checkout is a copy, because the test deletes a DAG in it. The inventory is in another folder.
    deploy = [sys.executable, "-m", "lab.cli", "deploy", "../servers.json", "--ssh", ssh]
    subprocess.run(deploy, check=True, cwd=checkout)
    password = json.loads((tmp_path / "servers" / "secrets.json").read_text())["airflow_admin_password"]
    airflow = LAB.eventually(lambda: _login(f"http://{SUBNET}.{address}:8080", password), within=180)
    assert airflow.wait("dist_example", airflow.trigger("dist_example"), within=120)["state"] == "success"
    LAB.eventually(lambda: _knows(airflow, temporary=True), within=120)

    (checkout / "dags" / "temporary.py").unlink()
    subprocess.run(deploy, check=True, cwd=checkout)
    for name in SERVERS:
        check_unchanged((tmp_path / "servers" / f"{name}.log").read_text())
        found = docker("exec", f"{NETWORK}-{name}", "ls", "/opt/airflow/dags", "/vagrant").split()
        assert "dist_example.py" in found
        assert "temporary.py" not in found
    LAB.eventually(lambda: _knows(airflow, temporary=False), within=120)


def _knows(airflow: Airflow, *, temporary: bool) -> None:
    dags = {dag["dag_id"] for dag in airflow.get("dags")["dags"]}
    assert "dist_example" in dags
    assert ("temporary" in dags) == temporary


def _login(url: str, password: str) -> Airflow:
    try:
        airflow = Airflow(url, password)
        assert "dist_example" in {dag["dag_id"] for dag in airflow.get("dags")["dags"]}
    except Exception as error:
        raise AssertionError(error) from error
    return airflow
