"""The queue server that carries tasks from schedulers to workers: Redis or RabbitMQ, depending on the chosen broker."""

from pathlib import Path

from lab.topology import BROKERS
from provision.operations import Context, cancel_drain, copy, drain, packages, restart_always, service
from provision.roles.queue import rabbitmq, redis

HERE = Path(__file__).parent
SERVERS = {"redis": redis, "rabbitmq": rabbitmq}


def install() -> None:
    packages("redis-server", "redis-sentinel", "rabbitmq-server")


def configure(context: Context) -> None:
    lab = context.lab
    copy(HERE / "airflow-drain-queue@.service", "/etc/systemd/system/airflow-drain-queue@.service")
    rolls = "queue" if lab.several("queue") else ""
    for broker in BROKERS:
        units, drainer = lab.queue_units(broker), f"airflow-drain-queue@{broker}.service"
        if broker == lab.broker:
            cancel_drain(units[0], drainer=drainer)
            reads = SERVERS[broker].configure(context)
            for unit in units:
                service(unit, reads=[*reads, restart_always(unit)], wait=not rolls, rolls=rolls)
        else:
            drain(units[0], drainer=drainer)
