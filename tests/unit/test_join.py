"""How a member with an empty disk comes to etcd's cluster, and to Redis' replication."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from provision.roles.consensus import join
from provision.roles.queue import replication
from tests.support.shipped import HA

HERE = HA["master2"]
URL = f"http://{HERE.address}:2380"
OTHERS = [{"ID": 1, "peerURLs": ["http://192.168.56.10:2380"], "clientURLs": ["x"]}]
FORMER = {"ID": 255, "peerURLs": [URL], "clientURLs": ["x"]}
EXPECTED = {"ID": 255, "peerURLs": [URL]}  # it never started


class Cluster(join.Cluster):
    """A cluster with some members, or without a majority."""

    def __init__(self, members: list[dict[str, Any]] | None, refuses: int = 0) -> None:
        self.members, self.refuses, self.asked = members, refuses, list[tuple[str, ...]]()

    def ask(self, *words: str) -> dict[str, Any]:
        self.asked.append(words)
        if self.members is None or (words[1] == "add" and self.refuses):
            self.refuses -= 1
            raise subprocess.CalledProcessError(1, "etcdctl", stderr="unhealthy cluster")
        return {"members": self.members}


@pytest.mark.parametrize(
    ("members", "state", "changes"),
    [
        (None, "new", []),
        ([*OTHERS, EXPECTED], "existing", []),
        ([*OTHERS, FORMER], "existing", [("member", "remove", "ff"), ("member", "add", "master2")]),
        (OTHERS, "existing", [("member", "add", "master2")]),
    ],
)
def test_empty_member_forms_a_cluster_or_joins_it(
    members: list[dict[str, Any]] | None, state: str, changes: list[tuple[str, ...]]
) -> None:
    cluster = Cluster(members)
    assert join.state(cluster, HERE, URL, within=1) == state
    assert [words[:3] for words in cluster.asked[1:]] == changes


def test_member_is_added_when_the_cluster_accepts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join.time, "sleep", lambda _: None)
    assert join.state(Cluster([*OTHERS, FORMER], refuses=3), HERE, URL, within=60) == "existing"
    with pytest.raises(SystemExit, match="does not accept master2 as a new member: unhealthy cluster"):
        join.state(Cluster([*OTHERS, FORMER], refuses=3), HERE, URL, within=0)


@pytest.mark.parametrize(
    ("answers", "followed", "expected"),
    [
        ([""], False, "192.168.56.10"),  # nobody answers: the first machine
        (["192.168.56.11"], False, "192.168.56.11"),
        ([HERE.address, "192.168.56.10"], False, HERE.address),  # the first start: the others wait for it
        ([HERE.address, HERE.address, "192.168.56.10"], True, "192.168.56.10"),  # its disk was lost
    ],
)
def test_redis_follows_the_master_that_the_sentinels_know(
    answers: list[str], followed: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication.time, "sleep", lambda _: None)
    monkeypatch.setattr(replication, "followed", lambda *_: followed)
    monkeypatch.setattr(replication, "appointed", lambda *_: answers.pop(0))
    assert replication.master(HA, HERE.name, "secret") == expected
