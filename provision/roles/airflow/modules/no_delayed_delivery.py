"""Lets a Celery worker connect without RabbitMQ's queues for delayed messages, which Airflow does not use.

At each connection Celery visits every node of a cluster to declare them, and waits about 40 s for one that is frozen or
powered off. The server then drops the worker for its missing heartbeats, and so on: it never takes a task again. The
option worker_detect_quorum_queues does not prevent it. Celery imports this because of `imports` in its configuration.
"""

from celery.worker.consumer.delayed_delivery import DelayedDelivery

DelayedDelivery.include_if = lambda self, consumer: False  # type: ignore[method-assign]
