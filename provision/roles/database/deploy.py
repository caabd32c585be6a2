"""PostgreSQL, and Airflow's content in it: tables, the admin, connections and variables."""

from pathlib import Path
from typing import Any

from pyinfra import host
from pyinfra.facts.files import Directory
from pyinfra.operations import postgres, server

from provision.operations import Context, digest, packages, restart_always, run_once, service, template, write_secret
from provision.roles.airflow import deploy as airflow

HERE = Path(__file__).parent
ETC = "/etc/postgresql/17/main"
SERVICE = "postgresql@17-main.service"


def install() -> None:
    packages("postgresql-17")


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

    run_once(
        "Migrate Airflow's database",
        key="migration",
        digest=digest(airflow.LOCK.read_text()),
        commands=["airflow db migrate"],
    )
    import_settings(context)


def import_settings(context: Context) -> None:
    """Import the admin, the connections and the variables with Airflow's own commands."""
    private: dict[str, Any] = {"user": "root", "group": "airflow", "mode": "640"}
    password = context.secrets["airflow_admin_password"]
    # Both commands ask for the password twice; without a terminal they read it from standard input.
    answers = write_secret(f"{password}\n{password}\n", f"{airflow.HOME}/admin-password", **private)
    ask = f"setsid --wait airflow users {{}} <{answers}"
    run_once(
        "Create the user admin",
        key="admin",
        digest=digest(password),
        commands=[
            ask.format("create --username admin --firstname Ad --lastname Min --role Admin --email admin@example.com"),
            f"[ ! -e /var/lib/airflow-lab/admin ] || {ask.format('reset-password --username admin')}",
        ],
    )
    database = lab_database(context)
    connections = template(
        airflow.CONFIG / "connections.yml.j2",
        f"{airflow.HOME}/connections.yml",
        **private,
        database=database,
        postgresql_password=context.secrets["postgresql_password"],
    )
    variables = airflow.CONFIG / "variables.json"
    run_once(
        "Import connections.yml",
        key="connections",
        digest=digest(
            (airflow.CONFIG / "connections.yml.j2").read_text(), str(database), context.secrets["postgresql_password"]
        ),
        commands=[f"airflow connections import --overwrite {connections}"],
    )
    run_once(
        "Import variables.json",
        key="variables",
        digest=digest(variables.read_text()),
        commands=[f"airflow variables import {variables}"],
    )


def lab_database(context: Context) -> dict[str, object]:
    """Return the variable `database` of connections.yml.j2."""
    machine = context.lab.with_role("database")[0]
    return {"host": machine.name, "port": context.lab.ports["postgresql"]}
