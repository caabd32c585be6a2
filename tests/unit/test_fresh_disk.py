"""A node of RabbitMQ keeps its disk until the cluster has been drained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from provision.roles.queue import fresh_disk


def test_node_starts_with_an_empty_disk_after_each_drain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data, drains = tmp_path / "mnesia", [0]
    monkeypatch.setattr(fresh_disk, "DATA", data)
    monkeypatch.setattr(fresh_disk, "STAMP", tmp_path / "drains")
    monkeypatch.setattr(fresh_disk, "Register", lambda: SimpleNamespace(drains=lambda broker: drains[0]))

    def kept() -> bool:
        """Return whether a start keeps what an earlier one has written."""
        data.mkdir(exist_ok=True)
        fresh_disk.main()
        return data.exists()

    assert kept(), "a disk of which nothing is known may hold messages"
    drains[0] = 1
    assert not kept()
    assert kept()


def test_disk_that_cannot_be_removed_is_removed_by_the_next_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data, stamp = tmp_path / "mnesia", tmp_path / "drains"
    data.write_text("a file, which rmtree refuses")
    stamp.write_text("0")
    monkeypatch.setattr(fresh_disk, "DATA", data)
    monkeypatch.setattr(fresh_disk, "STAMP", stamp)
    monkeypatch.setattr(fresh_disk, "Register", lambda: SimpleNamespace(drains=lambda broker: 1))

    with pytest.raises(NotADirectoryError):
        fresh_disk.main()
    assert stamp.read_text() == "0"
