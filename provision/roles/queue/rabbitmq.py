"""RabbitMQ: one node, or a cluster whose quorum queues have a replica on each node."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from pyinfra.operations import files

from provision.operations import Context, copy, service, template, write_secret

HERE = Path(__file__).parent
ETC = "/etc/rabbitmq"


def configure(context: Context) -> list[str]:
    """Write the files of RabbitMQ, and return those that it reads."""
    owner: dict[str, Any] = {"user": "rabbitmq", "group": "rabbitmq", "mode": "640"}
    several, machine = context.lab.several("queue"), context.machine
    drop_in = "/etc/systemd/system/epmd.socket.d"
    files.directory(name=f"Create {drop_in}", path=drop_in)
    epmd = template(HERE / "epmd.conf.j2", f"{drop_in}/lab.conf", lab=context.lab, machine=machine, several=several)
    service("epmd.socket", reads=[epmd])
    reads = [
        template(HERE / "rabbitmq.conf.j2", f"{ETC}/rabbitmq.conf", **owner, lab=context.lab, several=several),
        template(HERE / "rabbitmq-env.conf.j2", f"{ETC}/rabbitmq-env.conf", **owner, machine=machine, several=several),
        copy(HERE / "enabled_plugins", f"{ETC}/enabled_plugins", **owner),
        template(
            HERE / "definitions.json.j2",
            f"{ETC}/definitions.json",
            **owner,
            definitions=json.dumps(definitions(context.secrets["rabbitmq_password"]), indent=2),
        ),
    ]
    if several:
        cookie = {"user": "rabbitmq", "group": "rabbitmq", "mode": "400"}
        reads.append(write_secret(context.secrets["erlang_cookie"], "/var/lib/rabbitmq/.erlang.cookie", **cookie))
        unit = "/etc/systemd/system/rabbitmq-server.service.d/node.conf"
        reads.append(copy(HERE / "rabbitmq-node.conf", unit, folder=True))
    return reads


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
