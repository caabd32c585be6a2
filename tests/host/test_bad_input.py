"""Mistakes are refused before any machine is touched. The message names value, place, what is allowed and the fix."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from typing import Any

import pytest

from tests.support.checkout import Change, Checkout, set_machine


@pytest.fixture
def elsewhere(checkout: Checkout) -> Checkout:
    """A checkout with another network: the real lab may be up."""
    checkout.use_network("192.168.57")
    return checkout


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("BROKER", "kafka", "redis, rabbitmq"),
        ("LAYOUT", "cloud", "single, ha"),
        ("PROVIDER", "hyperv", "docker, libvirt, virtualbox"),
        ("TIME_FACTOR", "0", "1 to 100"),
        ("WORKERS", "0", "1 or more"),
        ("WORKERS", "99", "1 to 4"),
        ("WORKERS", "two", "of type integer"),
        ("TIMINGS", "slow", "fast, stock"),
        ("REVISION", "0", "1 or more"),
        ("REVISION", "next", "of type integer"),
    ],
)
def test_unknown_choice_is_refused(checkout: Checkout, variable: str, value: str, allowed: str) -> None:
    message = checkout.refused("status", **{variable: value})
    assert message.startswith(f"airflow-lab: {variable}: ")
    assert value in message
    assert allowed in message


def set_timing(**seconds: int) -> Change:
    return lambda lab: lab["timing_profiles"]["fast"].update(seconds)


def set_layout(layout: str, **roles: list[str]) -> Change:
    """Choose a layout, with other roles for some machines."""

    def change(lab: dict[str, Any]) -> None:
        lab["layout"] = layout
        for name, given in roles.items():
            lab["layouts"][layout][name]["roles"] = given

    return change


MISTAKES: dict[str, tuple[Change, str]] = {
    "unknown role": (
        set_machine("master1", roles=["webserver"]),
        'machines.master1.roles[0]: "webserver" is not allowed; allowed: consensus, local_proxy, database, queue',
    ),
    "two machines with one address": (
        set_machine("master2", address="192.168.56.11"),
        "machines.master2.address: 192.168.56.11 is already used by master1",
    ),
    "the host's address": (
        set_machine("master2", address="192.168.56.1"),
        "machines.master2.address: 192.168.56.1 is already used by the host",
    ),
    "address outside the network": (
        set_machine("worker1", address="10.0.0.1"),
        "machines.worker1.address: 10.0.0.1 is outside the lab's network 192.168.56.0/24",
    ),
    "invalid address": (
        set_machine("worker1", address="192.168.56.300"),
        "machines.worker1.address: 192.168.56.300 is not an IPv4 address",
    ),
    "no master": (
        lambda lab: [lab["machines"].pop(name) for name in ("master1", "master2")],
        "no machine has the role api_server, scheduler, dag_processor, triggerer",
    ),
    "no worker": (
        lambda lab: [lab["machines"].pop(f"worker{n}") for n in (1, 2, 3, 4)],
        "workers: 2 is not allowed; allowed: 1 to 0",
    ),
    "queues on a master": (set_machine("master1", queues=["default"]), "machines.master1: a machine has queues if"),
    "invalid port": (
        lambda lab: lab["ports"].update(redis=70000),
        "ports.redis: 70000 is not allowed; allowed: 1 to 65535",
    ),
    "a port of two services on one machine": (
        lambda lab: lab["ports"].update(redis=5432),
        "ports.redis: 5432 is not allowed: on broker it is already used by postgresql; give each service",
    ),
    "the same port for nginx and Flower": (
        lambda lab: lab["ports"].update(flower_local=5555),
        "ports.flower_local: 5555 is not allowed: on broker it is already used by flower",
    ),
    "the port of sshd": (
        lambda lab: lab["ports"].update(worker_log_server=22),
        "ports.worker_log_server: 22 is not allowed: on worker1 it is already used by sshd",
    ),
    "a port of two roles on one machine": (
        lambda lab: (
            lab["ports"].update(flower_local=8081),
            lab["machines"]["broker"]["roles"].append("api_server"),
        ),
        "ports.flower_local: 8081 is not allowed: on broker it is already used by api_server",
    ),
    "a port of the host that is forwarded twice": (
        lambda lab: lab["forwarded_ports"].update(flower=8080),
        "forwarded_ports.flower: 8080 is not allowed: it is already used by load_balancer; give each service its own",
    ),
    "two databases": (
        set_machine("master2", roles=["api_server", "scheduler", "dag_processor", "triggerer", "database"]),
        "the role database is on broker, master2; allowed: one machine, or an odd number from three on: of two,",
    ),
    "two queue servers": (
        set_machine("master1", roles=["queue", "scheduler"]),
        "the role queue is on broker, master1; allowed: one machine, or an odd number from three on",
    ),
    "three databases without a consensus": (
        lambda lab: [lab["machines"][name]["roles"].append("database") for name in ("master1", "master2")],
        "the role consensus is on no machine; a database on broker, master1, master2 needs it on three or more: they",
    ),
    "three databases to which no proxy leads": (
        set_layout("ha", worker1=["worker"]),
        "worker1 without the role local_proxy; a database on several machines needs it on all: it leads every client",
    ),
    "a consensus for one database": (
        set_machine("broker", roles=["consensus", "database", "queue", "load_balancer", "flower"]),
        "the role consensus is on broker; allowed: no machine, while the database is on one",
    ),
    "a layout without a queue": (
        set_layout(
            "ha", **{name: ["consensus", "local_proxy", "database"] for name in ("broker", "master1", "master2")}
        ),
        "no machine has the role queue, load_balancer, flower,",
    ),
    "a layout of a machine that does not exist": (
        lambda lab: lab["layouts"]["single"].update(master3={"memory_mb": 1024}),
        "layouts.single: no machine master3; allowed: broker, master1,",
    ),
    "the address of a machine for the load balancers": (
        lambda lab: lab.update(address="192.168.56.11", layout="ha"),
        "address: 192.168.56.11 is already used by master1; several load balancers share an address of their own",
    ),
    "an address for the load balancers outside the network": (
        lambda lab: lab.update(address="10.0.0.9", layout="ha"),
        "address: 10.0.0.9 is outside the lab's network 192.168.56.0/24; several load balancers share it",
    ),
    "misspelt key": (lambda lab: lab["ports"].update(rediss=6380), "ports: unknown key rediss; allowed: etcd,"),
    "missing key": (
        lambda lab: lab["timing_profiles"]["fast"].pop("queued_timeout"),
        "timing_profiles.fast: queued_timeout missing",
    ),
    "a timeout that a healthy task exceeds": (
        set_timing(heartbeat_timeout=11),
        "timing_profiles.fast.heartbeat_timeout: 11 is not allowed; allowed: 12 or more (four times heartbeat_interval",
    ),
    "a threshold that a healthy scheduler exceeds": (
        set_timing(scheduler_health_threshold=10),
        "scheduler_health_threshold: 10 is not allowed; allowed: 15 or more",
    ),
    "a token that expires in the queue": (
        set_timing(queued_timeout=60),
        "queued_timeout: 60 is not allowed; allowed: 120 or more",
    ),
    "schedulers that cannot fill the workers": (
        lambda lab: lab.update(parallelism=7),
        "parallelism: 7 is not allowed; allowed: 8 or more (2 schedulers must fill the 16 slots of 2 workers)",
    ),
    "a number as text": (lambda lab: lab.update(parallelism="16"), 'parallelism: "16" is not of type integer'),
    "invalid host name": (
        lambda lab: lab["machines"].update(Work_er=lab["machines"]["worker1"]),
        'the name "Work_er" does not fit',
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_in_lab_json_is_named(checkout: Checkout, mistake: str) -> None:
    change, message = MISTAKES[mistake]
    checkout.change(change)
    said = checkout.refused("status")
    assert "config/lab.json: " in said
    assert message in said


def test_lab_json_that_is_not_json_is_named(checkout: Checkout) -> None:
    (checkout.root / "config/lab.json").write_text('{"broker": redis}')
    assert "config/lab.json is not JSON" in checkout.refused("status")


def test_forwarded_port_that_is_taken_is_named(elsewhere: Checkout) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        elsewhere.change(lambda lab: lab["forwarded_ports"].update(load_balancer=port))
        message = elsewhere.refused("up")
    assert f"forwarded_ports.load_balancer: port {port} of 127.0.0.1 is unavailable" in message
    assert f"ss -ltnp 'sport = :{port}'" in message


def test_too_little_memory_is_named(elsewhere: Checkout) -> None:
    elsewhere.use_free_ports()
    elsewhere.change(set_machine("broker", memory_mb=10**9))
    message = elsewhere.refused("up")
    assert "too little memory: broker, master1, master2, worker1, worker2 need 1000004096 MiB" in message
    assert "MiB are available" in message


def test_too_little_disk_is_named(elsewhere: Checkout) -> None:
    elsewhere.use_free_ports()
    elsewhere.change(lambda lab: lab.update(disk_mb=10**9))
    assert "too little disk: a new lab needs 1000000000 MiB" in elsewhere.refused("up")


def test_network_that_docker_uses_is_named(checkout: Checkout) -> None:
    checkout.use_free_ports()
    shown = subprocess.run(
        ["docker", "network", "inspect", "bridge"], check=True, capture_output=True, text=True
    ).stdout
    subnet = json.loads(shown)[0]["IPAM"]["Config"][0]["Subnet"]
    checkout.use_network(".".join(subnet.split(".")[:3]))
    assert "is in use by Docker's network bridge" in checkout.refused("up")


def test_network_that_the_host_uses_is_named(checkout: Checkout) -> None:
    checkout.use_free_ports()
    subprocess.run(["docker", "version"], check=True, capture_output=True)
    checkout.use_network("127.0.0")
    assert "is in use on this host: lo has 127.0.0.1" in checkout.refused("up")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can add an interface")
def test_interface_that_an_engine_left_on_the_bridge_is_named(elsewhere: Checkout) -> None:
    elsewhere.use_free_ports()
    bridge, left = "lab-192.168.57", "lab-left"
    for words in (
        ["link", "add", bridge, "type", "bridge"],
        ["link", "add", left, "type", "veth", "peer", "name", "lab-left-peer"],
        ["link", "set", left, "master", bridge],
    ):
        subprocess.run(["ip", *words], check=True)
    try:
        message = elsewhere.refused("up")
    finally:
        for name in (left, bridge):
            subprocess.run(["ip", "link", "delete", name], check=True)
    assert f"the bridge {bridge} has interfaces that this Docker engine does not know: {left}." in message
    assert f"`sudo ip link delete {bridge}`" in message


def test_missing_docker_engine_is_named(elsewhere: Checkout) -> None:
    message = elsewhere.refused("up", DOCKER_HOST="unix:///nonexistent.sock")
    assert "no Docker engine" in message
    assert "make up" in message


def test_dag_that_airflow_cannot_read_is_named(elsewhere: Checkout) -> None:
    (elsewhere.root / "dags" / "private.py").touch(mode=0o600)
    assert "private.py (mode 0600): call `chmod -R o+rX dags lab provision`" in elsewhere.refused("up")


@pytest.mark.parametrize(
    ("folder", "wrong"),
    [
        ("missing", "missing is not allowed: it does not exist; allowed: a folder. DAGS=none chooses no folder"),
        ("file", "file is not allowed: it is not a folder; allowed: a folder"),
        ("a:b", "a:b is not allowed: it has a colon; allowed: a path without one"),
        (
            "closed",
            "closed is not allowed: Airflow cannot read {folder}/closed (mode 0754); call `chmod -R o+rX {folder}",
        ),
        ("private", "private is not allowed: Airflow cannot read {folder}/private/dag.py (mode 0640); call `chmod"),
    ],
)
def test_own_folder_that_airflow_cannot_use_is_named(
    elsewhere: Checkout, tmp_path_factory: pytest.TempPathFactory, folder: str, wrong: str
) -> None:
    own = tmp_path_factory.mktemp("own")
    (own / "file").touch()
    for name, mode in (("a:b", 0o755), ("closed", 0o754), ("private", 0o755)):
        (own / name).mkdir()
        (own / name).chmod(mode)
    (own / "private" / "dag.py").touch()
    (own / "private" / "dag.py").chmod(0o640)
    message = elsewhere.refused("up", DAGS=str(own / folder))
    assert message.startswith(f"airflow-lab: DAGS: {own}/")
    assert wrong.format(folder=own) in message


@pytest.mark.parametrize("folder", ["dags", "dags/team", ".", "link"])
def test_own_folder_that_overlaps_with_dags_is_named(elsewhere: Checkout, folder: str) -> None:
    (elsewhere.root / "dags" / "team").mkdir()
    (elsewhere.root / "link").symlink_to("dags")
    elsewhere.change(lambda lab: lab.update(dags=folder))
    message = elsewhere.refused("up")
    assert message.startswith("airflow-lab: config/lab.json: dags: ")
    assert "it is dags/ of this checkout, is inside it, or contains it; allowed: a separate folder" in message
