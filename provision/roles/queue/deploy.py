"""The queue server that carries tasks from schedulers to workers: Redis or RabbitMQ, depending on the chosen broker."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from pyinfra.operations import files

from lab.topology import BROKERS
from provision.operations import Context, cancel_drain, copy, drain, packages, restart_always, service, template

HERE = Path(__file__).parent


def install() -> None:
    packages("redis-server", "rabbitmq-server")


def configure(context: Context) -> None:
    copy(HERE / "airflow-drain-queue@.service", "/etc/systemd/system/airflow-drain-queue@.service")
    for broker in BROKERS:
        unit, drainer = context.lab.queue_unit(broker), f"airflow-drain-queue@{broker}.service"
        if broker == context.lab.broker:
            cancel_drain(unit, drainer=drainer)
            reads = {"redis": redis, "rabbitmq": rabbitmq}[broker](context)
            service(unit, reads=[*reads, restart_always(unit)])
        else:
            drain(unit, drainer=drainer)


def redis(context: Context) -> list[str]:
    return [
        template(
            HERE / "redis.conf.j2",
            "/etc/redis/redis.conf",
            user="redis",
            group="redis",
            mode="640",
            lab=context.lab,
            password=context.secrets["redis_password"],
        )
    ]


def rabbitmq(context: Context) -> list[str]:
    owner: dict[str, Any] = {"user": "rabbitmq", "group": "rabbitmq", "mode": "640"}
    etc = "/etc/rabbitmq"
    drop_in = "/etc/systemd/system/epmd.socket.d"
    files.directory(name=f"Create {drop_in}", path=drop_in)
    epmd = copy(HERE / "epmd.conf", f"{drop_in}/lab.conf")
    service("epmd.socket", reads=[epmd])
    return [
        template(HERE / "rabbitmq.conf.j2", f"{etc}/rabbitmq.conf", **owner, lab=context.lab),
        copy(HERE / "rabbitmq-env.conf", f"{etc}/rabbitmq-env.conf", **owner),
        copy(HERE / "enabled_plugins", f"{etc}/enabled_plugins", **owner),
        template(
            HERE / "definitions.json.j2",
            f"{etc}/definitions.json",
            **owner,
            definitions=json.dumps(definitions(context.secrets["rabbitmq_password"]), indent=2),
        ),
    ]


def definitions(password: str) -> dict[str, object]:
    """Return RabbitMQ's definitions: the user and the virtual host `airflow`, and nothing else."""
    return {
        "users": [
            {
                "name": "airflow",
                "password_hash": password_hash(password),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": ["administrator"],
            }
        ],
        "vhosts": [{"name": "airflow", "metadata": {"default_queue_type": "quorum"}}],
        "permissions": [{"user": "airflow", "vhost": "airflow", "configure": ".*", "write": ".*", "read": ".*"}],
    }


def password_hash(password: str) -> str:
    """Return a password as RabbitMQ stores it: base64(salt + sha256(salt + password)).

    The salt is derived from the password, so that the file is always the same; the passwords are random.
    """
    salt = hashlib.sha256(password.encode()).digest()[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
