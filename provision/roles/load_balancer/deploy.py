"""nginx: in front of the api-servers for the UI, the REST API and the workers, and in front of Flower.

If several machines have it, keepalived gives an address that stays to one of them whose nginx answers.
"""

import base64
import hashlib
from pathlib import Path

from pyinfra import host
from pyinfra.facts.server import Command
from pyinfra.operations import files

from provision.operations import Context, packages, restart_always, service, template

HERE = Path(__file__).parent
KEEPALIVED = "/etc/keepalived"


def install() -> None:
    packages("nginx-light", "keepalived")


def configure(context: Context) -> None:
    files.link(name="Remove Debian's default site", path="/etc/nginx/sites-enabled/default", present=False)
    users = template(
        HERE / "flower.htpasswd.j2",
        "/etc/nginx/flower.htpasswd",
        group="www-data",
        mode="640",
        password=ssha(context.secrets["flower_password"]),
    )
    config = template(
        HERE / "airflow.conf.j2", "/etc/nginx/conf.d/airflow.conf", lab=context.lab, flower=flower(context)
    )
    rolls = "load_balancer" if context.lab.several("load_balancer") else ""
    service("nginx.service", reads=[config, users, restart_always("nginx.service")], rolls=rolls)
    if rolls:
        share_address(context)


def share_address(context: Context) -> None:
    machine = context.machine
    others = template(
        HERE / "reaches-others.sh.j2", f"{KEEPALIVED}/reaches-others", mode="755", lab=context.lab, machine=machine
    )
    config = template(
        HERE / "keepalived.conf.j2",
        f"{KEEPALIVED}/keepalived.conf",
        lab=context.lab,
        machine=machine,
        others=others,
        interface=host.get_fact(Command, f"ip -oneline addr show to {machine.address} | cut -d' ' -f2"),
    )
    service("keepalived.service", reads=[config, others, restart_always("keepalived.service")])


def flower(context: Context) -> str:
    """Return the host at which nginx reaches Flower: loopback if both are on one machine."""
    return "127.0.0.1" if context.has("flower") else context.lab.with_role("flower")[0].name


def ssha(password: str) -> str:
    """Return the hash of a password for nginx. Its salt is derived from the password, so that the result is stable."""
    salt = hashlib.sha256(password.encode()).digest()[:8]
    return base64.b64encode(hashlib.sha1(password.encode() + salt, usedforsecurity=False).digest() + salt).decode()
