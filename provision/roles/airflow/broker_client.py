"""A client of a broker: counts the messages in its queues, and queries and controls its workers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

from celery import Celery
from kombu.exceptions import ChannelError, OperationalError

from provision.roles.airflow.register import secret

__all__ = ["BrokerClient", "OperationalError"]


class BrokerClient:
    """Every method raises OperationalError while the broker does not answer."""

    def __init__(self, name: str, wait: float) -> None:
        """Ask the broker `name`; a worker has `wait` seconds to answer."""
        self.name = name
        self.wait = wait
        url = secret(f"broker_url_{name}")
        self.app = Celery(broker=url, set_as_current=False)
        if url.startswith("sentinel:"):
            options = {"master_name": "lab", "sentinel_kwargs": json.loads(secret("sentinel_kwargs"))}
            self.app.conf.broker_transport_options = options

    def queued(self, queues: Iterable[str]) -> int:
        """Return how many messages are in `queues`; a queue that does not exist has none."""
        total = 0
        with self.app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1)
            for queue in queues:
                try:
                    with connection.channel() as channel:
                        total += channel.queue_declare(queue, passive=True).message_count
                except ChannelError:  # the queue does not exist
                    continue
        return total

    def expired(self, seconds: float) -> int:
        """Return how many messages of Redis were received by a worker that has not renewed them for some seconds.

        A worker that consumes takes them. RabbitMQ returns messages when their connection ends.
        """
        with self.app.connection_for_read() as connection:
            if connection.transport.driver_type != "redis":
                return 0
            connection.ensure_connection(max_retries=1)
            channel = connection.default_channel
            return channel.client.zcount(channel.unacked_index_key, "-inf", time.time() - seconds)

    def listens(self, node: str) -> list[str] | None:
        """Return the queues that a worker consumes; None if the worker does not answer."""
        answer = self._ask("active_queues", node)
        return None if answer is None else [queue["name"] for queue in answer]

    def tasks(self, node: str) -> list[float] | None:
        """Return for how many seconds each task of a worker has run; 0 for a task that has not started.

        None if the worker does not answer.
        """
        active, reserved = self._ask("active", node), self._ask("reserved", node)
        if active is None or reserved is None:
            return None
        return [time.time() - task["time_start"] for task in active] + [0.0] * len(reserved)

    def cancel(self, node: str, queues: Iterable[str]) -> None:
        """Stop a worker from consuming `queues`; it keeps the tasks that it has received."""
        for queue in queues:
            self.app.control.cancel_consumer(queue, destination=[node], reply=True, timeout=self.wait)

    def resume(self, node: str, queues: Iterable[str]) -> None:
        """Let a worker consume `queues` again."""
        for queue in queues:
            self.app.control.add_consumer(queue, destination=[node], reply=True, timeout=self.wait)

    def _ask(self, question: str, node: str) -> list[dict[str, Any]] | None:
        inspect = self.app.control.inspect(destination=[node], timeout=self.wait)
        return (getattr(inspect, question)() or {}).get(node)
