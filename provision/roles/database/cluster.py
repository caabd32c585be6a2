"""PostgreSQL on several machines: one is the primary, the others replicate it, and Patroni decides which.

Replication is synchronous: a commit that was acknowledged is on a second machine. Only a replica that has all of them
becomes the primary.
"""

from pathlib import Path
from typing import Any

from pyinfra import host
from pyinfra.facts.files import Directory, File
from pyinfra.operations import server

from provision.operations import STAMPS, Context, copy, restart_always, service, template, write_secret

HERE = Path(__file__).parent
ETC = "/etc/patroni"
DATA = "/var/lib/postgresql/17/lab"
SERVICE = "patroni.service"


def configure(context: Context) -> None:
    owner: dict[str, Any] = {"user": "root", "group": "postgres"}
    server.shell(
        name="Remove the cluster of Debian's package",
        commands=["pg_dropcluster --stop 17 main"],
        # Not one that has been used: lab.rb refuses that, too.
        _if=lambda: (
            bool(host.get_fact(Directory, "/var/lib/postgresql/17/main"))
            and not host.get_fact(File, f"{STAMPS}/postgresql_password")
        ),
    )
    roles = write_secret(
        f"CREATE ROLE airflow LOGIN PASSWORD '{context.secrets['postgresql_password']}';\n"
        "CREATE DATABASE airflow OWNER airflow;\nCREATE DATABASE lab OWNER airflow;\n",
        f"{ETC}/bootstrap.sql",
        **owner,
        mode="640",
    )
    script = template(HERE / "bootstrap.sh.j2", f"{ETC}/bootstrap.sh", **owner, mode="750", sql=roles)
    config = template(
        HERE / "patroni.yml.j2",
        f"{ETC}/config.yml",
        **owner,
        mode="640",
        lab=context.lab,
        machine=context.machine,
        secrets=context.secrets,
        data=DATA,
        bootstrap=script,
    )
    unit = copy(HERE / "patroni.conf", f"/etc/systemd/system/{SERVICE}.d/lab.conf", folder=True)
    service(SERVICE, reads=[config, unit, restart_always(SERVICE)], rolls="database")
