"""A step of the Celery worker that renews its lease on the messages that it holds in Redis.

kombu keeps a received message in Redis until it is acknowledged, and delivers it again `visibility_timeout` seconds
after it was received, even if its worker is alive. This step restarts that period for every message that the worker
holds: the period then counts from the death of the worker, and can be a few seconds. Any living worker returns the
expired messages to their queues (`QoS.restore_visible` in kombu.transport.redis).

A message that is delivered twice is executed once: the api-server accepts only one start of a queued task instance.
Celery imports this module because of `imports` in its configuration.
"""

from __future__ import annotations

import time
from typing import Any

from airflow.providers.celery.executors.celery_executor_utils import app
from celery import bootsteps
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer
from celery.worker.consumer.tasks import Tasks

RENEWALS = 4  # in each visibility_timeout
logger = get_logger(__name__)


class MessageLease(bootsteps.StartStopStep):
    """Renews the lease as long as the consumer is connected to Redis."""

    requires = (Tasks,)

    def __init__(self, consumer: Consumer, **_: Any) -> None:
        self.timer: Any = None

    def start(self, consumer: Consumer) -> None:
        if consumer.connection.transport.driver_type != "redis":
            return
        every = consumer.task_consumer.channel.visibility_timeout / RENEWALS
        self.timer = consumer.timer.call_repeatedly(every, self.renew, (consumer,))

    def stop(self, consumer: Consumer) -> None:
        if self.timer:
            self.timer.cancel()
            self.timer = None

    def renew(self, consumer: Consumer) -> None:
        if not consumer.task_consumer:
            return
        channel = consumer.task_consumer.channel
        held = list(channel.qos._delivered)  # kombu does not have a public name for it
        if not held:
            return
        try:
            # Over a connection of its own: on that of channel.client a BRPOP waits, whose answer may be a message. The
            # answer to zadd would be read instead, and the message would be lost.
            with channel.conn_or_acquire() as client:
                # xx: only updates. A message that was just acknowledged or returned must not be added again.
                client.zadd(channel.unacked_index_key, dict.fromkeys(held, time.time()), xx=True)
        except channel.connection_errors:
            logger.warning("The lease on %d messages could not be renewed", len(held), exc_info=True)


app.steps["consumer"].add(MessageLease)
