"""The queue server that carries tasks from schedulers to workers: Redis or RabbitMQ, whichever is the broker."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from pyinfra.operations import files

from lab.topology import QUEUE_UNITS
from provision.operations import Context, for_ever, keep, let_go, service, template

HERE = Path(__file__).parent
PACKAGES = ("redis-server", "rabbitmq-server")


def configure(context: Context) -> None:
    template(HERE / "airflow-leave-queue@.service.j2", "/etc/systemd/system/airflow-leave-queue@.service")
    for broker, unit in QUEUE_UNITS.items():
        leave = f"airflow-leave-queue@{broker}.service"
        if broker == context.lab.broker:
            keep(unit, leave=leave)
            reads = {"redis": redis, "rabbitmq": rabbitmq}[broker](context)
            service(unit, reads=[*reads, for_ever(unit)])
        else:
            let_go(unit, leave=leave)


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
    epmd = template(HERE / "epmd.conf.j2", f"{drop_in}/lab.conf")
    service("epmd.socket", reads=[epmd])
    return [
        template(HERE / "rabbitmq.conf.j2", f"{etc}/rabbitmq.conf", **owner, lab=context.lab),
        template(HERE / "rabbitmq-env.conf.j2", f"{etc}/rabbitmq-env.conf", **owner),
        template(HERE / "enabled_plugins.j2", f"{etc}/enabled_plugins", **owner),
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

    The salt comes from the password, so that rendering twice gives the same file; the passwords are random.
    """
    salt = hashlib.sha256(password.encode()).digest()[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
