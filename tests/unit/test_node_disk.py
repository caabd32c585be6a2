"""A node of RabbitMQ keeps its disk until the cluster is drained, and is forgotten before it starts without one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from provision.roles.queue import node_disk
from tests.support.shipped import HA


class Node:
    """The disk of a node, what the register knows of it, and which nodes were asked to forget it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.data, self.stamp = folder / "mnesia", folder / "drains"
        self.drains, self.joined = 0, False
        self.asked: list[str] = []
        self.answers: list[bool] = []
        register = SimpleNamespace(drains=lambda broker: self.drains, has_joined=lambda drains: self.joined)
        monkeypatch.setattr(node_disk, "DATA", self.data)
        monkeypatch.setattr(node_disk, "STAMP", self.stamp)
        monkeypatch.setattr(node_disk, "HERE", "master1")
        monkeypatch.setattr(node_disk, "Register", lambda: register)
        monkeypatch.setattr(node_disk, "Topology", SimpleNamespace(of_this_machine=lambda: HA))
        monkeypatch.setattr(node_disk, "forgets", self.forgets)
        monkeypatch.setattr(node_disk.time, "sleep", lambda _: None)

    def forgets(self, other: str) -> bool:
        self.asked.append(other)
        return self.answers.pop(0)

    def kept(self) -> bool:
        """Return whether a start keeps what an earlier one has written."""
        self.data.mkdir(exist_ok=True)
        (self.data / "queue").touch()
        node_disk.prepare()
        return self.data.exists()


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Node:
    return Node(monkeypatch, tmp_path)


def test_node_starts_with_an_empty_disk_after_each_drain(node: Node) -> None:
    assert node.kept(), "a disk of which nothing is known may hold messages"
    node.drains = 1
    assert not node.kept()
    assert node.kept()
    assert node.asked == []


def test_disk_that_cannot_be_removed_is_removed_by_the_next_start(node: Node) -> None:
    node.data.write_text("a file, which rmtree refuses")
    node.stamp.write_text("0")
    node.drains = 1
    with pytest.raises(NotADirectoryError):
        node_disk.prepare()
    assert node.stamp.read_text() == "0"


def test_node_that_the_others_know_is_forgotten_before_it_starts_with_an_empty_disk(node: Node) -> None:
    node.joined, node.answers = True, [False, False, False, True]
    node_disk.prepare()
    assert node.asked == ["broker", "master2"] * 2


def test_node_that_never_joined_waits_for_nobody(node: Node) -> None:
    node_disk.prepare()
    assert node.asked == []


@pytest.mark.parametrize(
    ("code", "said", "gone"), [(0, "", True), (69, "{:not_a_cluster_node, ...}", True), (69, "", False)]
)
def test_node_is_gone_if_it_was_removed_or_is_not_a_member(
    monkeypatch: pytest.MonkeyPatch, code: int, said: str, gone: bool
) -> None:
    def run(*_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(returncode=code, stdout="", stderr=said)

    monkeypatch.setattr(node_disk.subprocess, "run", run)
    assert node_disk.forgets("broker") == gone
