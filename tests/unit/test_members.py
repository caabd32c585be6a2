"""What `lab status` and `lab doctor` say of several machines with one role, from what the members answer."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab import members
from lab.checkout import Lab
from lab.topology import Topology
from tests.support import ROOT
from tests.support.shipped import HA

NAMES = [machine.name for machine in HA.with_role("database")]
PRIMARY = {"name": "broker", "role": "leader", "state": "running", "timeline": 1}
MB = 2**20


def replica(name: str, state: str = "streaming", lag: int = 0) -> dict[str, Any]:
    return {"name": name, "role": "quorum_standby", "state": state, "timeline": 1, "lag": lag}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    (tmp_path / ".lab").mkdir()
    shutil.copy(ROOT / "tests" / "support" / "lab-ha.json", tmp_path / ".lab" / "lab.json")
    return Lab(tmp_path)


def answer(monkeypatch: pytest.MonkeyPatch, answers: dict[str, dict[str, Any]]) -> None:
    """Let machines answer at a path, given by path and machine."""
    monkeypatch.setattr(members, "_ask", lambda lab, role, port, path, **_: answers.get(path, {}))


def wrong(findings: Any) -> list[tuple[str, str]]:
    return [(finding.machine, finding.wrong) for finding in findings]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([PRIMARY, replica("master1"), replica("master2")], []),
        ([PRIMARY, replica("master1")], [("master2", "its database is not a member of the cluster")]),
        (
            [PRIMARY, replica("master1"), replica("master2", "starting")],
            [("master2", "its database does not follow the primary (starting)")],
        ),
        (
            [PRIMARY, replica("master1"), replica("master2", lag=20 * MB)],
            [("master2", "its database is 20 MiB behind the primary")],
        ),
        (
            [replica("broker"), replica("master1"), replica("master2")],
            [("database", "has no primary: nothing is written until a majority of broker, master1, master2 is up")],
        ),
    ],
)
def test_database(
    found: list[dict[str, Any]], expected: list[tuple[str, str]], lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, {"cluster": {"broker": {"members": found}}})
    assert wrong(members.database_findings(lab)) == expected


def test_database_without_any_answer_is_not_healthy(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, {})
    assert ("database", members.database_states(lab)) == ("database", dict.fromkeys(NAMES, "no answer"))
    assert any("has no primary" in text for _, text in wrong(members.database_findings(lab)))


def etcd(*names: str, leader: str = "1") -> dict[str, Any]:
    return {name: {"header": {"member_id": str(number)}, "leader": leader} for number, name in enumerate(names, 1)}


def peers(*addresses: str) -> dict[str, Any]:
    return {"broker": {"members": [{"peerURLs": [f"http://{address}:2380"]} for address in addresses]}}


ALL = [machine.address for machine in HA.with_role("consensus")]


@pytest.mark.parametrize(
    ("status", "listed", "expected"),
    [
        (etcd(*NAMES), ALL, []),
        (etcd("broker", "master1"), ALL, []),  # the third does not run: status says so of its service
        (
            etcd("broker"),
            ALL,
            [("consensus", "has no majority: 1 of 3 members answer. The database accepts no writes")],
        ),
        (
            etcd(*NAMES, leader="0"),
            ALL,
            [("consensus", "has no majority: 0 of 3 members answer. The database accepts no writes")],
        ),
        (etcd(*NAMES), [*ALL, "10.0.0.9"], [("consensus", "has a stale member at http://10.0.0.9:2380")]),
        (etcd(*NAMES), ALL[:2], [("master2", "is not a member of the consensus")]),
    ],
)
def test_consensus(
    status: dict[str, Any],
    listed: list[str],
    expected: list[tuple[str, str]],
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer(monkeypatch, {"v3/maintenance/status": status, "v3/cluster/member/list": peers(*listed)})
    assert wrong(members.consensus_findings(lab)) == expected


def on(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lab, "topology", property(lambda _: replace(HA, broker=broker)))
    monkeypatch.setattr(Lab, "secrets", property(lambda _: {"rabbitmq_password": "x", "redis_password": "x"}))


@pytest.mark.parametrize(
    ("running", "online", "expected"),
    [
        (NAMES, NAMES, []),
        (NAMES[:1], NAMES, [("queue", "has no majority: 1 of 3 nodes of RabbitMQ run")]),
        (
            NAMES[:2],
            NAMES[:2],
            [("master2", "its RabbitMQ is not in the cluster"), ("queue", "the queue default has 2 of 3 replicas")],
        ),
    ],
)
def test_rabbitmq(
    running: list[str],
    online: list[str],
    expected: list[tuple[str, str]],
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on("rabbitmq", monkeypatch)
    nodes = [{"name": f"rabbit@{name}", "running": name in running} for name in NAMES]
    queues = [{"name": "default", "type": "quorum", "node": "rabbit@broker", "online": online}, {"type": "classic"}]
    answer(monkeypatch, {"api/nodes": {"broker": nodes}, "api/queues/airflow?disable_stats=true": {"broker": queues}})
    assert wrong(members.queue_findings(lab)) == expected


MASTER, FOLLOWS, LOST = ["master", 0, []], ["slave", "x", 6379, "connected", 0], ["slave", "x", 6379, "connect", 0]


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ([MASTER, FOLLOWS, FOLLOWS], []),
        ([FOLLOWS, FOLLOWS, []], [("queue", "has no master: no task is sent")]),
        ([MASTER, MASTER, FOLLOWS], [("queue", "has 2 masters: broker, master1")]),
        ([MASTER, FOLLOWS, LOST], [("master2", "its Redis does not follow the master (connect)")]),
    ],
)
def test_redis(
    roles: list[list[Any]], expected: list[tuple[str, str]], lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    on("redis", monkeypatch)
    monkeypatch.setattr(members, "redis_roles", lambda _: dict(zip(NAMES, roles, strict=True)))
    monkeypatch.setattr(members, "_quorum", lambda *_: "")
    assert wrong(members.queue_findings(lab)) == expected


def test_lab_on_one_machine_each_has_no_members(lab: Lab) -> None:
    shutil.copy(ROOT / "tests" / "support" / "lab.json", lab.root / ".lab" / "lab.json")
    assert Topology.load(lab.root).layout == "single"
    assert (members.states(lab), members.findings(lab)) == ({}, [])
