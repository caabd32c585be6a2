"""The queue server that carries tasks from schedulers to workers: Redis or RabbitMQ, whichever is the broker."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from pyinfra.operations import systemd

from provision.operations import Context, service, template

HERE = Path(__file__).parent
PACKAGES = ("redis-server", "rabbitmq-server")
SERVICES = {"redis": "redis-server.service", "rabbitmq": "rabbitmq-server.service"}


def configure(context: Context) -> None:
    lab = context.lab
    for broker, unit in SERVICES.items():
        if broker != lab.broker:
            systemd.service(name=f"Stop {unit}", service=unit, running=False, enabled=False)
    files = {"redis": redis, "rabbitmq": rabbitmq}[lab.broker](context)
    service(SERVICES[lab.broker], reads=files)


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
    return [
        template(HERE / "rabbitmq.conf.j2", f"{etc}/rabbitmq.conf", **owner, lab=context.lab),
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
        "vhosts": [{"name": "airflow", "default_queue_type": "quorum"}],
        "permissions": [{"user": "airflow", "vhost": "airflow", "configure": ".*", "write": ".*", "read": ".*"}],
    }


def password_hash(password: str) -> str:
    """Return a password as RabbitMQ stores it: base64(salt + sha256(salt + password)).

    The salt comes from the password, so that rendering twice gives the same file; the passwords are random.
    """
    salt = hashlib.sha256(password.encode()).digest()[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
