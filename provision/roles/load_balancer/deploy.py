"""nginx: in front of the api-servers for the UI, the REST API and the workers, and in front of Flower."""

import base64
import hashlib
from pathlib import Path

from pyinfra.operations import files

from provision.operations import Context, packages, restart_always, service, template

HERE = Path(__file__).parent


def install() -> None:
    packages("nginx-light")


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
    service("nginx.service", reads=[config, users, restart_always("nginx.service")])


def flower(context: Context) -> str:
    """Return the host at which nginx reaches Flower: loopback if both are on one machine."""
    return "127.0.0.1" if context.has("flower") else context.lab.with_role("flower")[0].name


def ssha(password: str) -> str:
    """Return the hash of a password for nginx. Its salt is derived from the password, so that the result is stable."""
    salt = hashlib.sha256(password.encode()).digest()[:8]
    return base64.b64encode(hashlib.sha1(password.encode() + salt, usedforsecurity=False).digest() + salt).decode()
