"""The lease of a worker on its messages in Redis, with a stand-in for kombu's channel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from message_lease import MessageLease


class Channel:
    """A channel whose own client waits for the answer to BRPOP."""

    unacked_index_key = "unacked_index"
    connection_errors = (ConnectionError,)

    def __init__(self, *held: str) -> None:
        self.qos = SimpleNamespace(_delivered=dict.fromkeys(held))
        self.renewed: dict[str, float] = {}

    @property
    def client(self) -> Any:
        raise AssertionError("its next answer belongs to BRPOP, and may be a message")

    @contextmanager
    def conn_or_acquire(self) -> Iterator[Any]:
        yield SimpleNamespace(zadd=self.zadd)

    def zadd(self, key: str, moments: dict[str, float], xx: bool) -> None:
        assert (key, xx) == ("unacked_index", True)
        self.renewed |= moments


def renew(channel: Channel) -> None:
    consumer: Any = SimpleNamespace(task_consumer=SimpleNamespace(channel=channel))
    MessageLease(consumer).renew(consumer)


def test_lease_is_renewed_over_another_connection_than_that_which_waits_for_messages() -> None:
    channel = Channel("a", "b")
    renew(channel)
    assert channel.renewed.keys() == {"a", "b"}


def test_worker_without_messages_renews_nothing() -> None:
    channel = Channel()
    renew(channel)
    assert not channel.renewed


def test_redis_that_is_away_does_not_stop_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel("a")
    monkeypatch.setattr(channel, "zadd", lambda *_, **__: (_ for _ in ()).throw(ConnectionError()))
    renew(channel)
