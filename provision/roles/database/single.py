"""PostgreSQL on one machine."""

from pathlib import Path
from typing import Any

from pyinfra import host
from pyinfra.facts.files import Directory
from pyinfra.operations import postgres, server

from provision.operations import Context, digest, restart_always, run_once, service, template, write_secret

HERE = Path(__file__).parent
ETC = "/etc/postgresql/17/main"
SERVICE = "postgresql@17-main.service"


def configure(context: Context) -> None:
    lab = context.lab
    owner: dict[str, Any] = {"user": "postgres", "group": "postgres"}
    # Debian's package creates both when it is installed, but they are removed from the box.
    server.shell(
        name="Create the cluster and its certificate",
        commands=["make-ssl-cert generate-default-snakeoil", "pg_createcluster 17 main"],
        _if=lambda: not host.get_fact(Directory, "/var/lib/postgresql/17/main"),
    )
    config = template(HERE / "lab.conf.j2", f"{ETC}/conf.d/lab.conf", **owner, lab=lab)
    access = template(HERE / "pg_hba.conf.j2", f"{ETC}/pg_hba.conf", **owner, mode="640", lab=lab)
    service(SERVICE, reads=[config, access, restart_always(SERVICE)])

    as_postgres: dict[str, Any] = {"_su_user": "postgres"}
    postgres.role(name="Create the role airflow", role="airflow", login=True, **as_postgres)
    sql = f"ALTER ROLE airflow PASSWORD '{context.secrets['postgresql_password']}';\n"
    password = write_secret(sql, f"{ETC}/password.sql", **owner)
    run_once(
        "Set the role's password",
        key="postgresql_password",
        digest=digest(sql),
        commands=[f"cd / && setpriv --reuid=postgres --regid=postgres --init-groups psql --quiet --file={password}"],
    )
    for name in ("airflow", "lab"):
        postgres.database(name=f"Create the database {name}", database=name, owner="airflow", **as_postgres)
