"""PostgreSQL, on one machine or on several with Patroni, and Airflow's content in it."""

import json
from collections.abc import Sequence
from typing import Any

from provision.operations import Context, digest, packages, run_once, template, write_secret
from provision.roles.airflow import deploy as airflow
from provision.roles.airflow.service import ETC
from provision.roles.database import cluster, single

CONTENT = f"{airflow.HOME}/content.json"


def install() -> None:
    # python3-etcd: apt would take Patroni's client of another store.
    packages("postgresql-17", "patroni", "python3-etcd")


def configure(context: Context) -> None:
    if context.lab.several("database"):
        cluster.configure(context)
    else:
        single.configure(context)
    fill(context)


def fill(context: Context) -> None:
    """Let `content.py` migrate the database and import the admin, the connections and the variables."""
    content = json.dumps(steps(context), indent=2)
    write_secret(content, CONTENT)
    template(single.HERE / "airflow-content.service.j2", f"{ETC}/airflow-content.service", venv=airflow.ENVIRONMENT)
    run_once(
        "Migrate the database; import the admin, connections and variables",
        key="content",
        digest=digest(content),
        commands=[
            "systemctl daemon-reload",
            f"set -a && . {airflow.HOME}/airflow.env && PYTHONPATH=/vagrant {airflow.VENV}/bin/python"
            " -m provision.roles.database.content",
        ],
    )


def steps(context: Context) -> list[dict[str, Any]]:
    """Return the steps of `content.py`, with a digest of what each depends on."""
    password = context.secrets["airflow_admin_password"]
    admin = ["--username", "admin", "--password", password]
    details = ["--firstname", "Ad", "--lastname", "Min", "--role", "Admin", "--email", "admin@example.com"]
    endpoint = context.lab.reached("database", "postgresql")[0]
    values: dict[str, Any] = {
        "database": dict(zip(("host", "port"), endpoint.split(":"), strict=True)),
        "postgresql_password": context.secrets["postgresql_password"],
    }
    private: dict[str, Any] = {"user": "root", "group": "airflow", "mode": "640"}
    source = airflow.CONFIG / "connections.yml.j2"
    connections = template(source, f"{airflow.HOME}/connections.yml", **private, **values)
    overwrite = ["connections", "import", "--overwrite", connections]
    variables = airflow.CONFIG / "variables.json"
    return [
        step("migration", airflow.LOCK.read_text(), ["db", "migrate"]),
        step("admin", password, ["users", "create", *admin, *details], again=["users", "reset-password", *admin]),
        step("connections", source.read_text() + json.dumps(values), overwrite),
        step("variables", variables.read_text(), ["variables", "import", str(variables)]),
    ]


def step(name: str, depends: str, command: Sequence[str], again: Sequence[str] = ()) -> dict[str, Any]:
    """Return a step: a command of Airflow, and the one that follows it if the step was done before."""
    return {"name": name, "digest": digest(depends), "command": command, "again": again}
